// The Open Inference Protocol v2 (KServe) over HTTP: health, metadata, inference.
import type { FastifyReply, FastifyRequest } from "fastify";
import { lowrankVersion } from "../../runs/environment.ts";
import type { TensorType } from "../../tensor.ts";
import { datatypeOf } from "../datatypes.ts";
import type { Port } from "../engine.ts";
import { type InferBody, readInferRequest } from "../infer-request.ts";
import { writeInferResponse } from "../infer-response.ts";
import { assertName } from "../names.ts";
import { answers, inferAnswers, inferSchema, metadataSchema, pathSchema, readyAnswers } from "../schemas.ts";
import { asServeError } from "../serve-error.ts";
import { departureOf, type RouteContext } from "./context.ts";

interface ModelPath {
  readonly name: string;
  readonly version?: string;
}

/** Extensions of the protocol that are spoken here, by Triton's names. */
const extensions = ["binary_tensor_data", "model_repository", "parameters"];

export function v2Routes(context: RouteContext): void {
  healthRoutes(context);
  const { app, service } = context;
  app.get(
    "/v2",
    {
      schema: {
        tags: ["v2"],
        summary: "What this server is",
        response: answers({ type: "object", additionalProperties: true }, "Name, version, extensions."),
      },
    },
    async () => ({
      name: "lowrank",
      version: lowrankVersion(),
      extensions,
    }),
  );
  for (const path of ["/v2/models/:name", "/v2/models/:name/versions/:version"]) {
    const params = path.endsWith(":version") ? pathSchema("name", "version") : pathSchema("name");
    app.get<{ Params: ModelPath }>(
      path,
      {
        schema: {
          tags: ["v2"],
          summary: "A model's inputs and outputs",
          params,
          response: answers(metadataSchema, "The model."),
        },
      },
      async ({ params: { name, version } }) => metadata(context, name, version),
    );
    app.get<{ Params: ModelPath }>(
      `${path}/ready`,
      {
        schema: {
          tags: ["v2"],
          summary: "Whether a model can be asked",
          params,
          response: readyAnswers("It can."),
        },
      },
      async ({ params: { name, version } }, reply) => {
        assertName(name, "model");
        const ready = service.isModelReady(name, version);
        return reply.code(ready ? 200 : 503).send({ name, ready });
      },
    );
    app.post<{ Params: ModelPath; Body: InferBody }>(
      `${path}/infer`,
      {
        schema: {
          tags: ["v2"],
          summary: "Ask a model",
          description:
            "JSON, or JSON with binary tensors behind it and Inference-Header-Content-Length, the length of the JSON.",
          params,
          body: inferSchema,
          consumes: ["application/json", "application/octet-stream"],
          response: inferAnswers,
        },
        // The answer is written already; serializing it by the schema would only take time.
        serializerCompiler: () => (data: unknown) => String(data),
      },
      (request, reply) => infer(context, request, reply),
    );
  }
}

function healthRoutes({ app, service }: RouteContext): void {
  app.get(
    "/v2/health/live",
    {
      schema: {
        tags: ["v2"],
        summary: "Whether the server runs",
        security: [],
        response: readyAnswers("It runs."),
      },
    },
    async () => ({ live: true }),
  );
  app.get(
    "/v2/health/ready",
    {
      schema: {
        tags: ["v2"],
        summary: "Whether it can answer",
        security: [],
        response: readyAnswers("It can."),
      },
    },
    async (_, reply) => {
      const ready = service.isReady;
      return reply.code(ready ? 200 : 503).send({ ready });
    },
  );
}

function metadata({ service }: RouteContext, name: string, version: string | undefined): object {
  assertName(name, "model");
  service.isModelReady(name, version);
  const { inputs, outputs } = service.description;
  const { versions } = service.versionsOf(name);
  return { name, versions, platform: "onnxruntime_onnx", inputs: inputs.map(describe), outputs: outputs.map(describe) };
}

function describe({ name, type, shape }: Port): object {
  return {
    name,
    datatype: datatypeOf[type as TensorType] ?? "BYTES",
    shape: (shape ?? []).map((dim) => (typeof dim === "number" ? dim : -1)),
  };
}

async function infer(
  { service, settings, metrics, binaryOf }: RouteContext,
  request: FastifyRequest<{ Params: ModelPath; Body: InferBody }>,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const begun = performance.now();
  const departure = departureOf(reply);
  const { name, version } = request.params;
  let isSuccess = false;
  try {
    assertName(name, "model");
    const asked = readInferRequest(request.body, binaryOf(request), service.description, settings);
    const answer = await service.infer(name, version, asked, departure);
    const { digest } = answer;
    const head = {
      model_name: name,
      model_version: answer.version,
      ...(asked.id !== undefined && { id: asked.id }),
      ...(digest !== undefined && { parameters: { adapter_digest: digest } }),
    };
    const { body, jsonBytes } = writeInferResponse(head, asked.outputs, answer.outputs);
    isSuccess = true;
    if (jsonBytes === null) return reply.header("content-type", "application/json; charset=utf-8").send(body);
    return reply
      .header("content-type", "application/octet-stream")
      .header("inference-header-content-length", String(jsonBytes))
      .send(body);
  } catch (error) {
    // The client has gone: there is nobody to tell.
    if (asServeError(error)?.status === 499) return reply.hijack();
    throw error;
  } finally {
    metrics.inferred(isSuccess, (performance.now() - begun) / 1000);
  }
}
