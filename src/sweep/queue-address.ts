// The address of a queue: redis://user:password@host:port/database, rediss:// with TLS, valkey:// for those who run that.
import { loadPackage } from "../data/package.ts";
import { LowrankError } from "../errors.ts";

export type Env = Readonly<Record<string, string | undefined>>;

/** What BullMQ and ioredis take. */
export interface QueueConnection {
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

/**
 * Reads an address.
 *
 * @throws LowrankError "config".
 */
export function queueConnection(address: string): QueueConnection {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (url === null || !/^(rediss?|valkeys?):$/.test(url.protocol) || !/^(\/\d*)?$/.test(url.pathname)) {
    throw new LowrankError(
      "config",
      `--queue: expected redis://host:port or rediss://user:password@host:port/0, got ${queueName(address)}`,
    );
  }
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

/** An address without its user and password, for messages; what has an @ in it may be a password that was not escaped. */
export function queueName(address: string): string {
  return address.replace(/\/\/.*@/s, "//");
}

/**
 * Asks the server for a sign of life, so that a wrong address is an error and not a wait.
 *
 * @returns what an operator should know of its settings.
 * @throws LowrankError "config".
 */
export async function checkQueue(address: string): Promise<string[]> {
  const { Redis } = await loadPackage("ioredis", "--queue", () => import("ioredis"));
  const redis = new Redis({
    ...queueConnection(address),
    lazyConnect: true,
    retryStrategy: () => null,
    maxRetriesPerRequest: 1,
  });
  let last: Error | null = null;
  redis.on("error", (error: Error) => {
    last = error; // says why; what connect() throws says only that
  });
  try {
    const asked = redis.connect().then(() => redis.config("GET", "appendonly").catch(() => []));
    const [, keeps = ""] = (await inTime(asked, mostSeconds)) as string[];
    const advice =
      "a restart of the server would forget the queue; set appendonly yes (results are in the store and stay)";
    return keeps === "no" ? [`${queueName(address)}: appendonly is off: ${advice}`] : [];
  } catch (cause) {
    const reason = ((last ?? cause) as Error).message || "nobody answers";
    const [fault, advice] = /^(NOAUTH|WRONGPASS|NOPERM)/.test(reason)
      ? [
          reason.startsWith("NOAUTH") ? "it asks for a password" : reason.replace(/\.$/, ""),
          "give the address as redis://user:password@host:port, with other signs than letters and digits escaped (%40 for @)",
        ]
      : [reason, "start Redis or Valkey, or check the address"];
    throw new LowrankError("config", `--queue: cannot reach ${queueName(address)}: ${fault}; ${advice}`, { cause });
  } finally {
    redis.disconnect();
  }
}

/** Seconds that a server has for its first answer. */
const mostSeconds = 10;

async function inTime<T>(answer: Promise<T>, seconds: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${seconds} seconds`)), 1000 * seconds);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
