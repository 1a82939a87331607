// A queue on Redis or Valkey: redis://user:password@host:port/database, rediss:// with TLS, valkey:// for those who run that.
import { loadPackage } from "../data/package.ts";

/** What BullMQ and ioredis take. */
export interface RedisConnection {
  readonly host: string;
  readonly port: number;
  readonly db: number;
  readonly username?: string;
  readonly password?: string;
  readonly tls?: object;
  /** Waits for as long as Redis is away, as BullMQ asks for. */
  readonly maxRetriesPerRequest: null;
  readonly retryStrategy: (times: number) => number;
}

/** The connection that an address names, or null when it is no such address. */
export function redisConnection(url: URL): RedisConnection | null {
  if (!/^(rediss?|valkeys?):$/.test(url.protocol) || !/^(\/\d*)?$/.test(url.pathname)) return null;
  return {
    host: url.hostname.replace(/^\[|\]$/g, "") || "127.0.0.1",
    port: Number(url.port || 6379),
    db: Number(url.pathname.slice(1) || 0),
    ...(url.username !== "" && { username: decodeURIComponent(url.username) }),
    ...(url.password !== "" && { password: decodeURIComponent(url.password) }),
    ...(/^(rediss|valkeys):$/.test(url.protocol) && { tls: {} }),
    maxRetriesPerRequest: null,
    retryStrategy: (times) => Math.min(100 * times, 2000),
  };
}

/** Whether what is queued survives a restart of the server; throws the reason why there is no answer. */
export async function askRedis(connection: RedisConnection): Promise<{ readonly keeps: boolean }> {
  const { Redis } = await loadPackage("ioredis", "--queue", () => import("ioredis"));
  const redis = new Redis({ ...connection, lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 1 });
  let last: Error | null = null;
  redis.on("error", (error: Error) => {
    last = error; // says why; what connect() throws says only that
  });
  try {
    await redis.connect();
    const [, appendonly = ""] = (await redis.config("GET", "appendonly").catch(() => [])) as string[];
    return { keeps: appendonly !== "no" };
  } catch (error) {
    throw last ?? error;
  } finally {
    redis.disconnect();
  }
}
