// What routes share.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Metrics } from "../metrics.ts";
import type { ServeSettings } from "../options.ts";
import { ServeError } from "../serve-error.ts";
import type { Departure, Service } from "../service.ts";
import type { AdapterStore } from "../store.ts";

export interface RouteContext {
  readonly app: FastifyInstance;
  readonly service: Service;
  readonly settings: ServeSettings;
  readonly metrics: Metrics;
  /** The bytes behind a body's JSON. */
  binaryOf(request: FastifyRequest): Uint8Array;
}

/** The adapters, for routes that load and unload them. Throws ServeError 403 where clients may not. */
export function loadableStore({ service, settings }: RouteContext): AdapterStore {
  if (!settings.allowLoading) {
    throw new ServeError(
      403,
      "loading and unloading at run time is off; the server's operator turns it on with --allow-loading",
    );
  }
  if (service.store === null)
    throw new ServeError(404, "this server has no adapters; it was started without --adapters");
  return service.store;
}

/** Tells when the client has gone before it was answered. A signal would do the same at many times the cost. */
export function departureOf(reply: FastifyReply): Departure {
  let listener: (() => void) | undefined;
  const departure = {
    hasLeft: false,
    onLeave(call: () => void): void {
      listener = call;
    },
  };
  reply.raw.once("close", () => {
    if (reply.raw.writableFinished) return;
    departure.hasLeft = true;
    listener?.();
  });
  return departure;
}
