// Hostile requests and files: whatever comes is answered with a status and a reason, never with a fault of our own, and the
// server goes on as before. LOWRANK_FUZZ=10000 sends more.
import { execFileSync } from "node:child_process";
import { realpathSync } from "node:fs";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { Agent, request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import {
  adapterFor,
  aloneWith,
  distance,
  type Home,
  inferBody,
  makeHome,
  serve,
  type TestServer,
  valuesOf,
} from "./testing/fixture.ts";

const runs = Number(process.env.LOWRANK_FUZZ ?? 1000);
const model = twoLayers();
const poet = adapterFor(model, 1);
const x = drawn("x", 2, 3);

/** Where what was opened or listed really lies. */
const opened = vi.hoisted(() => new Set<string>());
vi.mock("node:fs/promises", async (importOriginal) => {
  const real = await importOriginal<typeof import("node:fs/promises")>();
  const noted =
    <A extends unknown[], R>(call: (path: string, ...rest: A) => R) =>
    (path: string, ...rest: A): R => {
      try {
        opened.add(realpathSync(path));
      } catch {
        // Nothing is there: what is written next is noted when it is read.
      }
      return call(path, ...rest);
    };
  const { open, readFile, readdir } = real as unknown as Record<string, (path: string, ...rest: unknown[]) => unknown>;
  return { ...real, open: noted(open!), readFile: noted(readFile!), readdir: noted(readdir!) };
});

/** An adapter outside of the folder, and links and a pipe in it that lead there or nowhere. */
async function setTraps({ folder, adapters }: Home): Promise<void> {
  const files = ["adapter_config.json", "adapter_model.safetensors"];
  const outside = join(folder, "outside");
  await mkdir(outside);
  for (const file of files) await writeFile(join(outside, file), await readFile(join(adapters, "poet", file)));
  await symlink(outside, join(adapters, "linked"));
  for (const name of ["halfway", "half", "piped", "serving"]) await mkdir(join(adapters, name));
  for (const file of files) await symlink(join(outside, file), join(adapters, "halfway", file));
  await symlink("/etc/passwd", join(adapters, "half", files[0]!));
  for (const [name, from] of [
    ["half", 1],
    ["piped", 1],
    ["serving", 0],
  ] as const) {
    for (const file of files.slice(from))
      await writeFile(join(adapters, name, file), await readFile(join(outside, file)));
  }
  await symlink("/dev/zero", join(adapters, "serving", "serving.json"));
  await symlink(outside, join(adapters, "serving", "2"));
  if (process.platform !== "win32") execFileSync("mkfifo", [join(adapters, "piped", files[0]!)]);
}

let home: Home;
let server: TestServer;
beforeAll(async () => {
  home = await makeHome({ poet });
  await setTraps(home);
  opened.clear();
  server = await serve(home, { allowLoading: true, maxBody: 65_536, maxAdapterBytes: 65_536, maxRank: 16, timeout: 2 });
});

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: Uint8Array;
}

const agent = new Agent({ keepAlive: true, maxSockets: 8 });

function send({ method, path, headers, body }: Sent): Promise<{ status: number; text: string }> {
  const { hostname, port } = new URL(server.url);
  return new Promise((resolve, reject) => {
    const asked = request(
      { hostname, port, method, path, agent, headers: { ...headers, "content-length": body.length } },
      (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("end", () => resolve({ status: response.statusCode!, text: Buffer.concat(parts).toString() }));
      },
    );
    asked.on("error", reject);
    asked.end(body);
  });
}

const odd = fc.oneof(
  fc.string({ maxLength: 20 }),
  fc.constantFrom(
    "poet",
    "two",
    "linked",
    "halfway",
    "half",
    "piped",
    "serving",
    "..",
    "/etc/passwd",
    "%2e%2e",
    "a:0.5,b",
    "poet:1e999",
    "__proto__",
    "constructor",
    "\0",
    "x",
  ),
);
const number = fc.oneof(fc.integer(), fc.double(), fc.constantFrom(-1, 0, 1, 3, 2 ** 31, 2 ** 53, 1e308, -0));
const shape = fc.oneof(
  fc.array(fc.oneof(fc.integer({ min: -1, max: 4 }), number), { maxLength: 5 }),
  fc.constant([2, 3]),
  fc.constant([2 ** 30, 3]),
);
const parameters = fc.dictionary(
  fc.oneof(
    fc.constantFrom("adapter", "timeout", "binary_data_size", "binary_data_output", "binary_data", "classification"),
    odd,
  ),
  fc.oneof(odd, number, fc.boolean(), fc.constant(null), fc.array(fc.oneof(odd, fc.constant(null)), { maxLength: 4 })),
  { maxKeys: 3 },
);
const input = fc.record(
  {
    name: fc.oneof(fc.constantFrom("x", "adapter"), odd),
    shape,
    datatype: fc.constantFrom("FP32", "FP16", "INT64", "BYTES", "BOOL", "toString", ""),
    data: fc.oneof(
      fc.array(fc.oneof(number, odd, fc.constant(null)), { maxLength: 8 }),
      fc.constant([1, 2, 3, 4, 5, 6]),
      fc.jsonValue(),
    ),
    parameters,
  },
  { requiredKeys: [] },
);
const inferLike = fc.record(
  {
    id: odd,
    inputs: fc.array(input, { maxLength: 3 }),
    outputs: fc.array(fc.record({ name: odd, parameters }, { requiredKeys: [] }), { maxLength: 2 }),
    parameters,
  },
  { requiredKeys: ["inputs"] },
);
const bytes = fc.uint8Array({ maxLength: 200 });
const json = fc.oneof(
  inferLike,
  inferLike,
  fc.jsonValue(),
  fc.record({ lora_name: odd, lora_path: odd }),
  fc.record({ parameters }),
);
const body = fc.oneof(
  json.map((value) => Buffer.from(JSON.stringify(value))),
  bytes,
  fc.tuple(json, bytes).map(([value, tail]) => Buffer.concat([Buffer.from(JSON.stringify(value)), tail])),
  fc.integer({ min: 1, max: 60_000 }).map((depth) => Buffer.from("[".repeat(depth))),
  fc
    .integer({ min: 1, max: 20_000 })
    .map((depth) =>
      Buffer.from(
        `{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":${"[".repeat(depth)}${"]".repeat(depth)}}]}`,
      ),
    ),
);
const segment = odd.map((text) => encodeURIComponent(text));
const path = fc.oneof(
  fc.constantFrom(
    "/v2/models/two/infer",
    "/v2/models/poet/infer",
    "/v2/repository/index",
    "/v1/load_lora_adapter",
    "/v1/models",
  ),
  segment.map((name) => `/v2/models/${name}/infer`),
  fc.tuple(segment, segment).map(([name, version]) => `/v2/models/${name}/versions/${version}/infer`),
  fc.tuple(segment, fc.constantFrom("load", "unload")).map(([name, verb]) => `/v2/repository/models/${name}/${verb}`),
  fc.array(segment, { maxLength: 5 }).map((parts) => `/${parts.join("/")}`),
);
const sent: fc.Arbitrary<Sent> = fc.record({
  method: fc.constantFrom("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"),
  path,
  headers: fc.record(
    {
      "content-type": fc.constantFrom(
        "application/json",
        "application/json",
        "application/octet-stream",
        "text/plain",
        "application/json; charset=x",
      ),
      "inference-header-content-length": fc.oneof(
        fc.integer({ min: -2, max: 400 }).map(String),
        fc.constantFrom("1e3", "0x10", "9".repeat(20), ""),
      ),
      "x-request-id": fc.constantFrom("a", "a b", "x".repeat(300)),
      "content-encoding": fc.constantFrom("gzip", "identity"),
    },
    { requiredKeys: ["content-type"] },
  ),
  body,
});

/** The adapter still answers, and rightly, and nothing outside of the folder has been opened. */
async function expectSound(): Promise<void> {
  const inside = [realpathSync(home.adapters), realpathSync(home.modelPath)];
  expect([...opened].filter((path) => !inside.some((one) => path === one || path.startsWith(`${one}/`)))).toEqual([]);
  expect(await server.ask("/v2/health/ready")).toMatchObject({ status: 200 });
  await server.ask("/v2/repository/models/poet/load", {});
  const { body: answer } = await server.ask("/v2/models/poet/infer", inferBody(x));
  expect(distance(valuesOf(answer), await aloneWith(model, poet, { x }))).toBeLessThan(1e-4);
}

describe("hostile requests", () => {
  it("are answered with a reason, and never with a fault of the server", { timeout: runs * 60 }, async () => {
    await fc.assert(
      fc.asyncProperty(sent, async (one) => {
        const { status, text } = await send(one);
        expect(status, text).toBeLessThan(500);
        if (status >= 400 && one.method !== "HEAD") expect((JSON.parse(text) as { error: unknown }).error).toBeTruthy();
        expect(text).not.toContain("root:");
      }),
      { numRuns: runs },
    );
    expect(server.lines.filter((line) => line.includes("internal error"))).toEqual([]);
    await expectSound();
  });

  it("are not led out of the folder by links, nor held up by a pipe", async () => {
    for (const [name, status] of [
      ["linked", 404],
      ["halfway", 400],
      ["half", 400],
      ["piped", 400],
      ["serving", 200],
      ["serving/versions/2", 404],
    ] as const) {
      await server.ask(`/v2/repository/models/${name}/load`, {});
      expect(await server.ask(`/v2/models/${name}/infer`, inferBody(x)), name).toMatchObject({ status });
    }
    // What the watch would have seen.
    expect([...opened]).toContain(realpathSync(join(home.adapters, "poet", "adapter_config.json")));
    await expectSound();
  });

  it("below HTTP do not stop it", { timeout: runs * 60 }, async () => {
    const { hostname, port } = new URL(server.url);
    const raw = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc
        .tuple(fc.string({ maxLength: 40 }), fc.string({ maxLength: 40 }))
        .map(([a, b]) => Buffer.from(`GET /${a} HTTP/1.1\r\nHost: localhost\r\n${b}\r\n\r\n`)),
      fc
        .integer({ min: -5, max: 10 ** 12 })
        .map((length) =>
          Buffer.from(
            `POST /v2/models/two/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n{}`,
          ),
        ),
    );
    await fc.assert(
      fc.asyncProperty(raw, async (start) => {
        const socket = connect(Number(port), hostname);
        await new Promise<void>((resolve) => {
          socket.on("error", () => resolve());
          socket.on("close", () => resolve());
          socket.on("data", () => socket.destroy());
          socket.end(start);
          setTimeout(() => socket.destroy(), 100).unref();
        });
      }),
      { numRuns: Math.ceil(runs / 10) },
    );
    await expectSound();
  });
});

describe("hostile adapters", () => {
  it("are refused or answer, and leave the rest alone", { timeout: runs * 60 }, async () => {
    const config = await readFile(join(home.adapters, "poet", "adapter_config.json"));
    const weights = await readFile(join(home.adapters, "poet", "adapter_model.safetensors"));
    const folder = join(home.adapters, "mutant");
    await mkdir(folder, { recursive: true });
    const mutate = (original: Buffer): fc.Arbitrary<Buffer> =>
      fc
        .record({
          cut: fc.integer({ min: 0, max: original.length }),
          edits: fc.array(fc.tuple(fc.nat(original.length - 1), fc.nat(255)), { maxLength: 6 }),
          isCut: fc.boolean(),
        })
        .map(({ cut, edits, isCut }) => {
          const changed = Buffer.from(original);
          for (const [at, value] of edits) changed[at] = value;
          return isCut ? changed.subarray(0, cut) : changed;
        });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.tuple(mutate(config), fc.constant(weights)), fc.tuple(fc.constant(config), mutate(weights))),
        async ([a, b]) => {
          await writeFile(join(folder, "adapter_config.json"), a);
          await writeFile(join(folder, "adapter_model.safetensors"), b);
          const { status, body: told } = await server.ask("/v2/repository/models/mutant/load", {});
          expect([200, 400], JSON.stringify(told)).toContain(status);
          expect(JSON.stringify(told)).not.toContain(home.folder);
          const answer = await server.ask("/v2/models/mutant/infer", inferBody(x));
          expect([200, 400, 404]).toContain(answer.status);
        },
      ),
      { numRuns: Math.ceil(runs / 5) },
    );
    await expectSound();
  });
});
