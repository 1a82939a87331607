// `lowrank serve`: from options to a server that listens, and back.
import type { AddressInfo } from "node:net";
import { availableParallelism } from "node:os";
import type { FastifyInstance } from "fastify";
import { LowrankError } from "../errors.ts";
import { buildApp } from "./app.ts";
import { Trainer, type TuneIn } from "./feedback/trainer.ts";
import { isLoopback } from "./guard.ts";
import { type Metrics, openMetrics } from "./metrics.ts";
import { resolveServeOptions, type ServeOptions, type ServeSettings } from "./options.ts";
import type { OpenOne } from "./pool.ts";
import { asServeError } from "./serve-error.ts";
import { Service, type ServiceEvents, type ServiceOptions } from "./service.ts";

export interface ServeContext {
  /** Where log lines go; default: stdout. */
  readonly log?: { write(line: string): void };
  /** Opens what runs the model; default: a worker thread. */
  readonly openEngine?: OpenOne;
  /** Tunes from examples; default: in a thread of its own. */
  readonly tune?: TuneIn;
}

export interface RunningServer {
  /** As clients reach it: http://127.0.0.1:8000 */
  readonly url: string;
  /** What the base is called. */
  readonly name: string;
  /** The adapters that can be asked for. */
  readonly adapters: readonly string[];
  /** Takes no more requests, finishes what it accepted within `stopTimeout`, and ends. */
  stop(): Promise<void>;
}

/**
 * Starts a server.
 *
 * @throws LowrankError "config" for options out of bounds, a missing package or a port in use; as opening the model does.
 * @example
 * const server = await startServer({ model: "model.onnx", adapters: "adapters", port: 0 });
 * await fetch(`${server.url}/v2/health/ready`);
 * await server.stop();
 */
export async function startServer(options: ServeOptions, context: ServeContext = {}): Promise<RunningServer> {
  const settings = resolveServeOptions(options);
  const metrics = await openMetrics(settings.name);
  // Set before anything can happen that is told of.
  let app: FastifyInstance | undefined;
  const events: ServiceEvents = {
    info: (fields, message) => app?.log.info(fields, message),
    warn: (fields, message) => app?.log.warn(fields, message),
  };
  const service = await Service.open(serviceOptions(settings), {
    metrics,
    events,
    ...(context.openEngine !== undefined && { openEngine: context.openEngine }),
  }).catch((error: unknown) => {
    throw asConfigError(error);
  });
  const trainer = openTrainer(settings, service, metrics, events, context.tune);
  try {
    app = await buildApp({
      service,
      metrics,
      settings,
      trainer,
      ...(context.log !== undefined && { log: context.log }),
    });
    await listen(app, settings);
  } catch (error) {
    await app?.close();
    await service.stop(0);
    throw error;
  }
  const url = addressOf(app, settings.host);
  warnOfExposure(app, settings);
  const { name } = service;
  app.log.info({ url, model: name, adapters: service.store?.names.length ?? 0 }, "listening");
  const running = app;
  let stopping: Promise<void> | undefined;
  return {
    url,
    name,
    get adapters() {
      return service.store?.names ?? [];
    },
    stop() {
      stopping ??= Promise.all([trainer?.stop(), stop(running, service, settings.stopTimeout * 1000)]).then(
        () => undefined,
      );
      return stopping;
    },
  };
}

/** Bytes of examples that an adapter may have. */
const maxExampleBytes = 1_000_000_000;

function openTrainer(
  { feedback, model, maxExamples, maxRank, workers, threads }: ServeSettings,
  { store, description }: Service,
  metrics: Metrics,
  events: ServiceEvents,
  tune: TuneIn | undefined,
): Trainer | null {
  if (!feedback || store === null) return null;
  const spare = availableParallelism() - 1 - workers * threads;
  return new Trainer({
    model,
    store,
    description,
    metrics,
    maxExamples,
    maxRank,
    maxBytes: maxExampleBytes,
    threads: Math.max(1, spare),
    log: events.info,
    ...(tune !== undefined && { tune }),
  });
}

function serviceOptions(settings: ServeSettings): ServiceOptions {
  const { targets, timeout, reload, memory, ...rest } = settings;
  return {
    ...rest,
    maxMemory: memory,
    timeout: timeout * 1000,
    reloadEvery: reload * 1000,
    ...(targets !== null && { targets }),
  };
}

async function listen(app: FastifyInstance, { host, port }: ServeSettings): Promise<void> {
  try {
    await app.listen({ host, port, backlog: 2048 });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new LowrankError("config", `--host ${host} --port ${port}: cannot listen there: ${reason}; choose another`, {
      cause: error,
    });
  }
}

function addressOf(app: FastifyInstance, host: string): string {
  const { port } = app.server.address() as AddressInfo;
  return `http://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

function warnOfExposure(app: FastifyInstance, { host, apiKey }: ServeSettings): void {
  if (apiKey === null && !isLoopback(host)) {
    app.log.warn(
      { host },
      "anyone who can reach this address can ask this server; set an API key (--api-key-file, LOWRANK_API_KEY)",
    );
  }
}

/** First no new connections, then the answers that are due, then everything else. */
async function stop(app: FastifyInstance, service: Service, timeout: number): Promise<void> {
  const end = performance.now() + timeout;
  service.announceStop();
  app.log.info({ open: service.open }, "stopping");
  const closing = app.close();
  // Connections that fall idle now are closed as they do; Node.js itself looks at them once.
  const closer = setInterval(() => app.server.closeIdleConnections(), 20);
  await Promise.race([closing, new Promise((resolve) => setTimeout(resolve, timeout).unref())]);
  clearInterval(closer);
  await service.stop(Math.max(0, end - performance.now()));
  app.server.closeAllConnections();
  await closing;
}

/** What is wrong at the start is the operator's to mend, whatever status a client would get. */
function asConfigError(error: unknown): unknown {
  if (error instanceof LowrankError) return error;
  const known = asServeError(error);
  return known === null ? error : new LowrankError("config", known.message, { cause: error });
}
