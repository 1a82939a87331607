// Who may ask at all: an API key, or, without one on loopback, requests that were really meant for this server. A page in a
// browser on the same machine can reach loopback, by a name that its owner makes point there too, so both are looked at: the
// name, and where the page comes from.
import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { ServeError } from "./serve-error.ts";

export interface GuardOptions {
  readonly apiKey: string | null;
  readonly host: string;
  readonly allowedHosts: readonly string[];
}

/** Routes that orchestrators ask without a key. */
const openRoutes: ReadonlySet<string> = new Set(["/v2/health/live", "/v2/health/ready"]);

/**
 * A function that throws ServeError 401 or 403 for requests that are not to be answered.
 *
 * @example const check = createGuard({ apiKey, host: "127.0.0.1", allowedHosts: [] }); check(route, request.headers);
 */
export function createGuard({
  apiKey,
  host,
  allowedHosts,
}: GuardOptions): (route: string | undefined, headers: IncomingHttpHeaders) => void {
  const expected = apiKey === null ? null : digest(apiKey);
  const names = new Set(["localhost", "127.0.0.1", "[::1]", ...allowedHosts].map((name) => name.toLowerCase()));
  const checksNames = apiKey === null && isLoopback(host);
  return (route, headers) => {
    if (route !== undefined && openRoutes.has(route)) return;
    if (expected !== null && !isKey(headers, expected)) {
      throw new ServeError(401, "expected an API key as Authorization: Bearer KEY, got none or another");
    }
    if (!checksNames) return;
    if (!names.has(hostOf(headers.host ?? ""))) {
      throw new ServeError(403, "this server answers to localhost alone; see --allow-host");
    }
    // A page may send here what it cannot read the answer of; its browser says where the page comes from.
    if (headers.origin !== undefined && !names.has(originHost(headers.origin))) {
      throw new ServeError(403, "this server answers to pages of localhost alone; see --allow-host");
    }
  };
}

/** Whether an address can be reached from this machine alone. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** Compared by digests, so that the time it takes says nothing about the key. */
function isKey(headers: IncomingHttpHeaders, expected: Buffer): boolean {
  const { authorization = "" } = headers;
  const given = /^bearer /i.test(authorization) ? authorization.slice("bearer ".length).trim() : headers["x-api-key"];
  return typeof given === "string" && timingSafeEqual(digest(given), expected);
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

/** The host of a page's origin; "" for one that has none. */
function originHost(origin: string): string {
  return URL.canParse(origin) ? new URL(origin).hostname : "";
}

function hostOf(header: string): string {
  return header.toLowerCase().replace(/:\d+$/, "");
}
