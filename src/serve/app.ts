// HTTP: limits, the guard, errors, logs and the routes, assembled on Fastify.
import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { loadPackage } from "../data/package.ts";
import { lowrankVersion } from "../runs/environment.ts";
import type { Trainer } from "./feedback/trainer.ts";
import { createGuard } from "./guard.ts";
import { headerLengthName, splitBody } from "./infer-request.ts";
import type { Metrics } from "./metrics.ts";
import { shortened } from "./names.ts";
import type { ServeSettings } from "./options.ts";
import type { RouteContext } from "./routes/context.ts";
import { feedbackRoutes } from "./routes/feedback.ts";
import { openAiError, openAiPrefix, openAiRoutes } from "./routes/openai.ts";
import { operationRoutes } from "./routes/operations.ts";
import { repositoryRoutes } from "./routes/repository.ts";
import { v2Routes } from "./routes/v2.ts";
import { asServeError, ServeError } from "./serve-error.ts";
import type { Service } from "./service.ts";

export interface AppParts {
  readonly service: Service;
  readonly metrics: Metrics;
  readonly settings: ServeSettings;
  /** Null where clients may not send examples. */
  readonly trainer: Trainer | null;
  /** Where log lines go; default: stdout. */
  readonly log?: { write(line: string): void };
}

/** Connections that are held at once. */
const maxConnections = 10_000;

/** Milliseconds that a client may take to send a request. */
const requestTimeout = 60_000;

/** The bodies that are being received may take this many times what one may have. */
const bodiesAtOnce = 32;

/**
 * The application, not listening yet.
 *
 * @throws LowrankError "config" when fastify or @fastify/swagger is not installed.
 */
export async function buildApp(parts: AppParts): Promise<FastifyInstance> {
  const { service, metrics, settings } = parts;
  const { default: fastify, LogController } = await loadPackage("fastify", "lowrank serve", () => import("fastify"));
  const { default: swagger } = await loadPackage("@fastify/swagger", "lowrank serve", () => import("@fastify/swagger"));
  const app: FastifyInstance = fastify({
    logger: {
      level: settings.logLevel,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      ...(parts.log !== undefined && { stream: parts.log }),
    },
    // One line for each request is written when it has ended (observeRequests).
    logController: new LogController({ disableRequestLogging: true }),
    requestIdHeader: false,
    genReqId: (request) => requestId(request.headers["x-request-id"]),
    bodyLimit: settings.maxBody,
    requestTimeout,
    keepAliveTimeout: 72_000,
    forceCloseConnections: "idle",
    return503OnClosing: true,
    routerOptions: { maxParamLength: 256 },
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allErrors: false } },
    frameworkErrors: (error, request, reply) =>
      void answerError(error, request as FastifyRequest, reply as FastifyReply),
  });
  app.server.maxConnections = maxConnections;
  const check = createGuard(settings);
  app.addHook("onRequest", async (request) => check(request.routeOptions.url, request.headers));
  limitBodies(app, settings.maxBody * bodiesAtOnce);
  const binaryOf = readBodies(app);
  observeRequests(app, parts);
  app.setErrorHandler<FastifyError>((error, request, reply) => answerError(error, request, reply));
  app.setNotFoundHandler((request) => {
    throw new ServeError(404, `there is no ${request.method} ${request.url.split("?")[0]}; see /openapi.json`);
  });
  await app.register(swagger, { openapi: aboutApi(settings) });
  await app.register((routes, _options, done) => {
    const context: RouteContext = { app: routes, service, settings, metrics, binaryOf };
    v2Routes(context);
    repositoryRoutes(context);
    openAiRoutes(context);
    operationRoutes(context);
    if (parts.trainer !== null) feedbackRoutes(context, parts.trainer);
    done();
  });
  await app.ready();
  return app;
}

/** A client's id for its request where it is a plain one, else a new one. */
function requestId(given: string | string[] | undefined): string {
  return typeof given === "string" && /^[\w.-]{1,128}$/.test(given) ? given : randomUUID();
}

/** Bodies are read whole before they are looked at: all of them together are bounded, not each alone. */
function limitBodies(app: FastifyInstance, maxBytes: number): void {
  let receiving = 0;
  app.addHook("onRequest", async (request, reply) => {
    const { "content-length": length, "transfer-encoding": encoding } = request.headers;
    const bytes = encoding === undefined ? Number(length ?? 0) : app.initialConfig.bodyLimit!;
    if (!(bytes > 0)) return;
    if (receiving > 0 && receiving + bytes > maxBytes) {
      throw new ServeError(503, "too much is being received at once; try again", { retryAfter: 1 });
    }
    receiving += bytes;
    reply.raw.once("close", () => {
      receiving -= bytes;
    });
  });
}

/** What bodies may say that they are: Triton's clients say nothing, and curl that everything is a form. */
const contentTypes: ReadonlySet<string> = new Set([
  "",
  "application/json",
  "application/octet-stream",
  "application/x-www-form-urlencoded",
]);

/** Parses bodies, and returns a function that gives the bytes behind a body's JSON. */
function readBodies(app: FastifyInstance): RouteContext["binaryOf"] {
  const tails = new WeakMap<FastifyRequest, Uint8Array>();
  const none = new Uint8Array();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, async (request: FastifyRequest, body: Buffer) => {
    assertReadable(request.headers);
    const header = request.headers[headerLengthName];
    if (body.length === 0 && header === undefined) return null;
    const { json, binary } = splitBody(body, Array.isArray(header) ? header.join() : header);
    if (binary.length > 0) tails.set(request, binary);
    return json;
  });
  return (request) => tails.get(request) ?? none;
}

function assertReadable({
  "content-type": type = "",
  "content-encoding": encoding = "identity",
}: IncomingHttpHeaders): void {
  if (!contentTypes.has(type.split(";", 1)[0]!.trim().toLowerCase())) {
    throw new ServeError(
      415,
      `Content-Type: expected application/json or application/octet-stream, got ${shortened(type)}`,
    );
  }
  if (encoding.trim().toLowerCase() !== "identity") {
    throw new ServeError(415, `Content-Encoding: expected none, got ${shortened(encoding)}; send the body as it is`);
  }
}

/** A line in the log and a metric for each request, and its id in the answer. */
function observeRequests(app: FastifyInstance, { service, metrics }: AppParts): void {
  app.addHook("onSend", async (request, reply) => {
    reply.header("x-request-id", request.id);
    reply.header("x-content-type-options", "nosniff");
    // A client that keeps its connection would keep a server that stops waiting for its next request.
    if (service.isStopping) reply.header("connection", "close");
  });
  app.addHook("onResponse", async (request, reply) => {
    const route = request.routeOptions.url ?? "unknown";
    metrics.responded(request.method, route, reply.statusCode, reply.elapsedTime / 1000);
    const isQuiet = route.startsWith("/v2/health") || route === "/metrics";
    request.log[isQuiet ? "debug" : "info"](
      {
        method: request.method,
        url: request.url.split("?")[0],
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime * 1000) / 1000,
      },
      "request",
    );
  });
}

/** One sentence for the client; what is our own fault goes to the log with its stack. */
function answerError(
  error: Error & { statusCode?: number; validation?: unknown },
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const known =
    asServeError(error) ??
    (error.statusCode !== undefined && error.statusCode < 500 ? new ServeError(error.statusCode, error.message) : null);
  const status = known?.status ?? 500;
  if (known === null) request.log.error({ err: error }, "internal error");
  const message = known?.message ?? `internal error; the server's log has it under request ${request.id}`;
  const retryAfter = known?.retryAfter ?? (status === 503 ? 1 : undefined);
  if (retryAfter !== undefined) reply.header("retry-after", String(retryAfter));
  if (status === 401) reply.header("www-authenticate", "Bearer");
  const body = request.url.startsWith(openAiPrefix) ? openAiError(status, message) : { error: message };
  return reply
    .code(status)
    .header("content-type", "application/json; charset=utf-8")
    .serializer(JSON.stringify)
    .send(body);
}

function aboutApi({ name, apiKey }: ServeSettings): object {
  return {
    openapi: "3.1.0",
    servers: [{ url: "/" }],
    info: {
      title: `${name} and its adapters`,
      version: lowrankVersion(),
      description:
        "One base model and many adapters. Open Inference Protocol v2 with binary tensors, Triton's repository extension, and vLLM's names for adapters.",
    },
    ...(apiKey !== null && {
      components: { securitySchemes: { key: { type: "http", scheme: "bearer" } } },
      security: [{ key: [] }],
    }),
  };
}
