// A queue on PostgreSQL (13 or newer), for those who run that and no Redis: postgres://user:password@host:port/database, with
// node-postgres's parameters behind it (?sslmode=require). BullMQ keeps its tables in a schema of their own.
import { loadPackage } from "../data/package.ts";

/** What BullMQ and node-postgres take. */
export interface PostgresConnection {
  readonly connectionString: string;
  readonly schema: string;
  /** The first one to come makes the tables; an advisory lock keeps others waiting for it. */
  readonly migrate: true;
  /** Connections of each of BullMQ's objects, of which a worker has five. */
  readonly max: number;
}

/** The connection that an address names, or null when it is no such address. */
export function postgresConnection(url: URL, schema: string): PostgresConnection | null {
  // An @ behind the host is a password's that was not escaped, and what stands for the host is then a part of it.
  if (!/^postgres(ql)?:$/.test(url.protocol) || url.pathname.includes("@")) return null;
  return { connectionString: url.href, schema, migrate: true, max: 2 };
}

/** Asks for a sign of life; throws the reason why there is none. */
export async function askPostgres({ connectionString }: PostgresConnection): Promise<{ readonly keeps: boolean }> {
  const { default: pg } = await loadPackage("pg", "--queue", () => import("pg"));
  const client = new pg.Client({ connectionString });
  // A connection that breaks while it is closed is no news.
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ fsync: string }>("SHOW fsync");
    return { keeps: rows[0]?.fsync !== "off" };
  } finally {
    await client.end().catch(() => {});
  }
}
