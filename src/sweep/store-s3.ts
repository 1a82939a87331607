// A store in an S3-compatible bucket (Amazon, MinIO, Ceph, R2, …), through s3mini. The address is s3://bucket/prefix, with
// ?endpoint= and ?region= where the environment does not say them; keys come from the environment alone, by the names that the
// AWS tools use.
import { openAsBlob } from "node:fs";
import { loadPackage } from "../data/package.ts";
import { LowrankError } from "../errors.ts";
import { storeFailure } from "./place-failure.ts";
import type { Env } from "./queue-address.ts";
import type { Store } from "./store.ts";

/** Opens `s3://bucket/prefix?endpoint=https://host&region=name`. Throws LowrankError "config". */
export async function openS3Store(address: string, env: Env): Promise<Store> {
  const { endpoint, region, prefix, name } = placeOf(address, env);
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env;
  if (!accessKeyId || !secretAccessKey) {
    throw new LowrankError(
      "config",
      `${name}: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment`,
    );
  }
  const { S3mini } = await loadPackage("s3mini", "stores in a bucket", () => import("s3mini"));
  const bucket = new S3mini({ accessKeyId, secretAccessKey, endpoint, region });
  const keyOf = (key: string): string => prefix + key;
  const call = async <T>(action: string, key: string, request: () => Promise<T>): Promise<T> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await request();
      } catch (cause) {
        const status = (cause as { status?: unknown }).status;
        const isPassing = typeof status !== "number" || status >= 500 || status === 429;
        if (!isPassing || attempt === attempts) {
          throw storeFailure(
            `${name}/${key}: cannot ${action}: ${reasonOf(cause)}; check the endpoint, the bucket and the keys`,
            cause,
          );
        }
        await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt));
      }
    }
  };
  const sent = async (key: string, send: () => Promise<{ ok: boolean; status: number }>): Promise<void> => {
    await call("write", key, async () => {
      const { ok, status } = await send();
      if (!ok) throw Object.assign(new Error(`the server answered ${status}`), { status });
    });
  };
  return {
    name,
    has: (key) => call("read", key, async () => (await bucket.objectExists(keyOf(key))) === true),
    get: (key) =>
      call("read", key, async () => {
        const bytes = await bucket.getObjectArrayBuffer(keyOf(key));
        return bytes === null ? null : new Uint8Array(bytes);
      }),
    stream: (key) =>
      call("read", key, async () => {
        const response = await bucket.getObjectResponse(keyOf(key));
        return (response?.body as AsyncIterable<Uint8Array> | null | undefined) ?? null;
      }),
    put: (key, bytes) => sent(key, () => bucket.putAnyObject(keyOf(key), bytes)),
    // A blob of a file is read as it is sent, in parts where it is large.
    putFile: (key, path) => sent(key, async () => bucket.putAnyObject(keyOf(key), await openAsBlob(path))),
    async remove(key) {
      await call("remove", key, () => bucket.deleteObject(keyOf(key)));
    },
  };
}

/** fetch says "fetch failed"; why, its own cause says. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const inner = error.cause instanceof Error ? error.cause : null;
  const code = (inner as NodeJS.ErrnoException | null)?.code;
  return inner === null ? error.message : inner.message || code || error.message;
}

/** Tries of a request that a busy server may refuse. */
const attempts = 4;

function placeOf(address: string, env: Env): { endpoint: string; region: string; prefix: string; name: string } {
  const [, bucket = "", path = "", query = ""] = /^s3:\/\/([^/?]+)\/?([^?]*)\??(.*)$/i.exec(address) ?? [];
  const given = new URLSearchParams(query);
  const region = given.get("region") ?? env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? "us-east-1";
  const host =
    given.get("endpoint") ?? env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL ?? `https://s3.${region}.amazonaws.com`;
  if (bucket === "" || !URL.canParse(host)) {
    throw new LowrankError(
      "config",
      `--store: expected a folder or s3://bucket/prefix?endpoint=https://host, got ${address}`,
    );
  }
  const prefix = path.replace(/^\/+|\/+$/g, "");
  return {
    endpoint: `${host.replace(/\/+$/, "")}/${bucket}`,
    region,
    prefix: prefix === "" ? "" : `${prefix}/`,
    name: `s3://${bucket}${prefix === "" ? "" : `/${prefix}`}`,
  };
}
