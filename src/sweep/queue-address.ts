// The address of a queue, and whether somebody answers there.
import { LowrankError } from "../errors.ts";
import { askPostgres, type PostgresConnection, postgresConnection } from "./queue-postgres.ts";
import { askRedis, type RedisConnection, redisConnection } from "./queue-redis.ts";

export type Env = Readonly<Record<string, string | undefined>>;

/** The keys of queues in Redis begin with it; in PostgreSQL it is the schema of their tables. */
export const prefix = "lowrank";

export type QueueConnection =
  | { readonly server: "redis"; readonly options: RedisConnection }
  | { readonly server: "postgres"; readonly options: PostgresConnection };

/**
 * Reads an address.
 *
 * @throws LowrankError "config".
 */
export function queueConnection(address: string): QueueConnection {
  const url = URL.canParse(address) ? new URL(address) : null;
  const redis = url && redisConnection(url);
  if (redis) return { server: "redis", options: redis };
  const postgres = url && postgresConnection(url, prefix);
  if (postgres) return { server: "postgres", options: postgres };
  throw new LowrankError(
    "config",
    `--queue: expected redis://host:port, rediss://user:password@host:port/0 or postgres://user:password@host:port/database, got ${queueName(address)}`,
  );
}

/** An address without its user and password, for messages; what has an @ in it may be a password that was not escaped. */
export function queueName(address: string): string {
  return address.replace(/\/\/.*@/s, "//").replace(/([?&])password=[^&]*&?/gi, "$1");
}

/** What each server is called, how its refusals begin, and what makes it forget. */
const servers = {
  redis: {
    called: "Redis or Valkey",
    form: "redis://user:password@host:port",
    refuses: /^(NOAUTH|WRONGPASS|NOPERM)/,
    forgets: "appendonly is off",
    keeps: "set appendonly yes",
  },
  postgres: {
    called: "PostgreSQL",
    form: "postgres://user:password@host:port/database",
    refuses: /password|authentication|role .* does not exist/,
    forgets: "fsync is off",
    keeps: "set fsync on",
  },
} as const;

/**
 * Asks the server for a sign of life, so that a wrong address is an error and not a wait.
 *
 * @returns what an operator should know of its settings.
 * @throws LowrankError "config".
 */
export async function checkQueue(address: string): Promise<string[]> {
  const connection = queueConnection(address);
  const { called, form, refuses, forgets, keeps } = servers[connection.server];
  try {
    const asked = connection.server === "redis" ? askRedis(connection.options) : askPostgres(connection.options);
    if ((await inTime(asked, mostSeconds)).keeps) return [];
    const advice = `a restart of the server would forget the queue; ${keeps} (results are in the store and stay)`;
    return [`${queueName(address)}: ${forgets}: ${advice}`];
  } catch (cause) {
    if (cause instanceof LowrankError) throw cause;
    const reason = (cause as Error).message || (cause as NodeJS.ErrnoException).code || "nobody answers";
    const [fault, advice] = refuses.test(reason)
      ? [
          reason.startsWith("NOAUTH") ? "it asks for a password" : reason.replace(/\.$/, ""),
          `give the address as ${form}, with other signs than letters and digits escaped (%40 for @)`,
        ]
      : [reason, `start ${called}, or check the address`];
    throw new LowrankError("config", `--queue: cannot reach ${queueName(address)}: ${fault}; ${advice}`, { cause });
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
