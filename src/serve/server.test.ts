// The server through real HTTP on loopback: every protocol, adapters and blends by row, and what is refused.
import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { attachLora } from "../lora/attach.ts";
import { drawn, twoLayers } from "../lora/testing/models.ts";
import { tensor } from "../tensor.ts";
import { createSession } from "../train/infer.ts";
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

/** Batched and alone: float32 sums in another order. */
const tolerance = 1e-4;

const model = twoLayers();
const poet = adapterFor(model, 1);
const critic = adapterFor(model, 2, { r: 3, loraAlpha: 1 });
const dora = adapterFor(model, 3, { useDora: true });
const x1 = drawn("x1", 1, 3);
const x3 = drawn("x3", 3, 3);
const rowOf = (row: number): ReturnType<typeof drawn> => tensor("float32", [1, 3], x3.data.slice(row * 3, row * 3 + 3));

let home: Home;
let server: TestServer;
beforeAll(async () => {
  home = await makeHome({ poet, critic, dora });
  server = await serve(home, { allowLoading: true });
});

describe("Open Inference Protocol v2", () => {
  it("tells what it is, and that it lives and is ready", async () => {
    expect((await server.ask("/v2")).body).toMatchObject({
      name: "lowrank",
      extensions: ["binary_tensor_data", "model_repository", "parameters"],
    });
    expect(await server.ask("/v2/health/live")).toMatchObject({ status: 200, body: { live: true } });
    expect(await server.ask("/v2/health/ready")).toMatchObject({ status: 200, body: { ready: true } });
  });

  it("describes the base and each adapter as a model of its own", async () => {
    const expected = {
      versions: ["1"],
      platform: "onnxruntime_onnx",
      inputs: [{ name: "x", datatype: "FP32", shape: [-1, 3] }],
      outputs: [{ name: "y", datatype: "FP32", shape: [-1, 4] }],
    };
    for (const name of ["two", "poet"]) {
      expect((await server.ask(`/v2/models/${name}`)).body).toEqual({ name, ...expected });
      expect((await server.ask(`/v2/models/${name}/versions/1`)).body).toEqual({ name, ...expected });
      expect(await server.ask(`/v2/models/${name}/versions/1/ready`)).toMatchObject({
        status: 200,
        body: { name, ready: true },
      });
      expect(await server.ask(`/v2/models/${name}/versions/2/ready`)).toMatchObject({ status: 404 });
    }
    expect(await server.ask("/v2/models/nobody/ready")).toMatchObject({
      status: 404,
      body: { error: 'there is no model or adapter "nobody"' },
    });
  });

  it("answers as the base and each adapter alone", async () => {
    for (const [name, adapter] of [
      ["two", null],
      ["poet", poet],
      ["critic", critic],
      ["dora", dora],
    ] as const) {
      const { status, body } = await server.ask(`/v2/models/${name}/infer`, inferBody(x3, { id: "abc" }));
      expect(status).toBe(200);
      expect(body).toMatchObject({
        model_name: name,
        model_version: "1",
        id: "abc",
        outputs: [{ name: "y", shape: [3, 4], datatype: "FP32" }],
      });
      expect(distance(valuesOf(body), await aloneWith(model, adapter, { x: x3 }))).toBeLessThan(tolerance);
    }
    expect(
      distance(await aloneWith(model, poet, { x: x3 }), await aloneWith(model, critic, { x: x3 })),
    ).toBeGreaterThan(0.01);
  });

  it("takes nested data, and gives the outputs that are asked for", async () => {
    const rows = [0, 1, 2].map((row) => [...x3.data.slice(row * 3, row * 3 + 3)]);
    const body = { inputs: [{ name: "x", shape: [3, 3], datatype: "FP32", data: rows }], outputs: [{ name: "y" }] };
    const answer = await server.ask("/v2/models/two/versions/1/infer", body);
    expect(distance(valuesOf(answer.body), await aloneWith(model, null, { x: x3 }))).toBeLessThan(tolerance);
  });

  it("gives each row its own adapter, a weighted sum or the base", async () => {
    const adapter = ["poet:0.7,critic:0.3", null, "critic"];
    const { body } = await server.ask("/v2/models/two/infer", inferBody(x3, { parameters: { adapter } }));
    const got = valuesOf(body);
    const blended = got.slice(0, 4);
    expect(distance(got.slice(4, 8), await aloneWith(model, null, { x: rowOf(1) }))).toBeLessThan(tolerance);
    expect(distance(got.slice(8), await aloneWith(model, critic, { x: rowOf(2) }))).toBeLessThan(tolerance);
    const session = await createSession(attachLora(model));
    const sum = [
      { adapter: poet, weight: 0.7 },
      { adapter: critic, weight: 0.3 },
    ];
    const outputs = await session.run({ x: rowOf(0) }, { adapter: sum });
    await session.dispose();
    expect(distance(blended, [...(outputs.get("y")!.data as Float32Array)])).toBeLessThan(tolerance);
    expect(distance(blended, await aloneWith(model, poet, { x: rowOf(0) }))).toBeGreaterThan(0.01);
  });

  it("takes the adapters of rows as a BYTES input too", async () => {
    const names = { name: "adapter", shape: [3], datatype: "BYTES", data: ["dora", "poet", ""] };
    const body = inferBody(x3);
    const answer = await server.ask("/v2/models/two/infer", { inputs: [...(body.inputs as object[]), names] });
    const got = valuesOf(answer.body);
    for (const [row, adapter] of [dora, poet, null].entries()) {
      expect(
        distance(got.slice(row * 4, row * 4 + 4), await aloneWith(model, adapter, { x: rowOf(row) })),
      ).toBeLessThan(tolerance);
    }
  });

  it("speaks the binary tensor data extension both ways", async () => {
    const head = {
      parameters: { binary_data_output: true },
      inputs: [{ name: "x", shape: [3, 3], datatype: "FP32", parameters: { binary_data_size: 36 } }],
    };
    const json = Buffer.from(JSON.stringify(head));
    const body = Buffer.concat([json, Buffer.from(x3.data.buffer, x3.data.byteOffset, 36)]);
    const response = await fetch(`${server.url}/v2/models/poet/infer`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream", "Inference-Header-Content-Length": String(json.length) },
      body,
    });
    expect(response.status).toBe(200);
    const bytes = Buffer.from(await response.arrayBuffer());
    const length = Number(response.headers.get("inference-header-content-length"));
    expect(JSON.parse(bytes.subarray(0, length).toString())).toMatchObject({
      model_name: "poet",
      outputs: [{ name: "y", shape: [3, 4], datatype: "FP32", parameters: { binary_data_size: 48 } }],
    });
    const got = [...new Float32Array(new Uint8Array(bytes.subarray(length)).buffer)];
    expect(distance(got, await aloneWith(model, poet, { x: x3 }))).toBeLessThan(tolerance);
  });

  it("tells all that is wrong with a request", async () => {
    const infer = (body: unknown): ReturnType<TestServer["ask"]> => server.ask("/v2/models/two/infer", body);
    const input = { name: "x", shape: [1, 3], datatype: "FP32", data: [1, 2, 3] };
    const faults: [unknown, RegExp][] = [
      [{}, /required property 'inputs'/],
      ["[", /no JSON/],
      [{ inputs: [{ ...input, data: [1, 2] }] }, /expected 3 values for \[1,3\], got 2/],
      [{ inputs: [{ ...input, data: [1, 2, null] }] }, /value 2 is null/],
      [{ inputs: [{ ...input, data: [1, 2, 1e39] }] }, /value 2 is 1e\+39/],
      [{ inputs: [{ ...input, data: [[1, 2], [3]] }] }, /expected lists nested as \[1,3\]/],
      [{ inputs: [{ ...input, shape: [1, 4] }] }, /expected \[batch, 3\], got \[1, 4\]/],
      [{ inputs: [{ ...input, shape: [0, 3], data: [] }] }, /one row or more/],
      [{ inputs: [{ ...input, datatype: "FP64" }] }, /expected FP32, got FP64/],
      [{ inputs: [{ ...input, name: "z" }] }, /the model has no such input/],
      [{ inputs: [input, input] }, /given twice/],
      [{ inputs: [input], outputs: [{ name: "z" }] }, /no such output; it has y/],
      [{ inputs: [input], parameters: { adapter: ["poet", "poet"] } }, /one for each of the 1 rows, got 2/],
      [{ inputs: [input], parameters: { adapter: "poet:a" } }, /expected name or name:weight/],
      [{ inputs: [input], parameters: { adapter: "../poet" } }, /paths and URLs are not names/],
      [{ inputs: [input], parameters: { adapter: 3 } }, /got number/],
      [{ inputs: [input], parameters: { timeout: -1 } }, /microseconds/],
      [
        { inputs: [{ ...input, data: undefined, parameters: { binary_data_size: 12 } }] },
        /0 bytes or fewer, which are left, got 12/,
      ],
    ];
    for (const [body, pattern] of faults) {
      const answer = await infer(body);
      expect(answer, JSON.stringify(body)).toMatchObject({
        status: 400,
        body: { error: expect.stringMatching(pattern) },
      });
    }
    expect(await infer({ inputs: [input], parameters: { adapter: "nobody" } })).toMatchObject({ status: 404 });
    expect(
      await server.ask("/v2/models/poet/infer", { inputs: [input], parameters: { adapter: "critic" } }),
    ).toMatchObject({ status: 400 });
  });
});

describe("Triton's repository extension", () => {
  it("lists, unloads and loads", async () => {
    const index = async (): Promise<Record<string, string>> => {
      const { body } = await server.ask("/v2/repository/index", {});
      return Object.fromEntries((body as { name: string; state: string }[]).map(({ name, state }) => [name, state]));
    };
    await server.ask("/v2/models/poet/infer", inferBody(x1));
    expect(await index()).toMatchObject({ two: "READY", poet: "READY" });
    expect(await server.ask("/v2/repository/models/poet/unload", {})).toMatchObject({ status: 200, body: "" });
    expect(await index()).toMatchObject({ poet: "UNAVAILABLE" });
    expect(await server.ask("/v2/models/poet/infer", inferBody(x1))).toMatchObject({ status: 404 });
    expect(await server.ask("/v2/repository/models/poet/load", {})).toMatchObject({ status: 200, body: "" });
    expect(await server.ask("/v2/models/poet/infer", inferBody(x1))).toMatchObject({ status: 200 });
    expect(await server.ask("/v2/repository/index", { ready: true })).toMatchObject({ status: 200 });
  });

  it("takes no configuration or file from a request, and leaves the base", async () => {
    const load = (name: string, parameters: object): ReturnType<TestServer["ask"]> =>
      server.ask(`/v2/repository/models/${name}/load`, { parameters });
    expect(await load("poet", { config: "{}" })).toMatchObject({ status: 400 });
    expect(await load("poet", { "file:1/adapter_model.safetensors": "AAAA" })).toMatchObject({ status: 400 });
    expect(await server.ask("/v2/repository/models/two/unload", {})).toMatchObject({ status: 400 });
    expect(await server.ask("/v2/repository/models/nobody/load", {})).toMatchObject({ status: 404 });
  });
});

describe("vLLM's names", () => {
  it("lists the base and its adapters", async () => {
    const { body } = await server.ask("/v1/models");
    expect(body).toMatchObject({ object: "list" });
    const data = (body as { data: { id: string; parent: string | null; object: string }[] }).data;
    expect(data.map(({ id, parent }) => [id, parent])).toEqual([
      ["two", null],
      ["critic", "two"],
      ["dora", "two"],
      ["poet", "two"],
    ]);
    expect(await server.ask("/v1/models/poet")).toMatchObject({ status: 200, body: { id: "poet", root: "two" } });
  });

  it("unloads and loads, with OpenAI's errors", async () => {
    expect(await server.ask("/v1/unload_lora_adapter", { lora_name: "critic" })).toMatchObject({
      status: 200,
      body: "Success: LoRA adapter 'critic' removed successfully.",
    });
    const load = { lora_name: "critic", lora_path: "critic" };
    expect(await server.ask("/v1/load_lora_adapter", load)).toMatchObject({
      status: 200,
      body: "Success: LoRA adapter 'critic' added successfully.",
    });
    expect(await server.ask("/v1/load_lora_adapter", load)).toMatchObject({
      status: 400,
      body: { error: { type: "InvalidUserInput", code: 400 } },
    });
    expect(await server.ask("/v1/load_lora_adapter", { ...load, load_inplace: true })).toMatchObject({ status: 200 });
    expect(await server.ask("/v1/unload_lora_adapter", { lora_name: "nobody" })).toMatchObject({
      status: 404,
      body: { error: { type: "NotFoundError", code: 404, param: null } },
    });
    expect(await server.ask("/v1/load_lora_adapter", { lora_name: "critic", lora_path: "/etc/passwd" })).toMatchObject({
      status: 400,
    });
  });
});

/** The part of an OpenAPI operation that is looked at. */
interface Operation {
  readonly summary?: string;
  readonly tags?: readonly string[];
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
  readonly responses: Readonly<Record<string, unknown>>;
}

describe("operators", () => {
  it("find metrics without a label that clients choose", async () => {
    await server.ask("/v2/models/poet/infer", inferBody(x1));
    const { body, headers } = await server.ask("/metrics");
    const text = String(body);
    expect(headers.get("content-type")).toContain("text/plain");
    for (const name of [
      'nv_inference_request_success{model="two",version="1"}',
      'nv_inference_count{model="two",version="1"}',
      'lowrank_http_request_duration_seconds_count{method="POST",route="/v2/models/:name/infer",status="200"}',
      "lowrank_inference_duration_seconds_bucket",
      "lowrank_queue_duration_seconds_sum",
      "lowrank_adapters_resident ",
      'lowrank_adapter_loads_total{result="loaded"}',
    ]) {
      expect(text).toContain(name);
    }
    expect(text).not.toContain("poet");
    const success = /nv_inference_request_success\{.*\} (\d+)/.exec(text)!;
    expect(Number(success[1])).toBeGreaterThan(5);
  });

  it("find the API as a document and as a page that loads nothing", async () => {
    const { body } = await server.ask("/openapi.json");
    const { openapi, paths } = body as { openapi: string; paths: Record<string, Record<string, Operation>> };
    expect(openapi).toBe("3.1.0");
    for (const [path, methods] of Object.entries(paths)) {
      const wanted = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      for (const [method, { summary, tags, parameters = [], responses }] of Object.entries(methods)) {
        expect([summary, tags?.length], `${method} ${path}`).toEqual([expect.any(String), 1]);
        expect(parameters.filter((one) => one.in === "path").map(({ name }) => name)).toEqual(wanted);
        expect(Object.keys(responses), `${method} ${path}`).toEqual(expect.arrayContaining(["200", "4XX", "5XX"]));
      }
    }
    for (const path of [
      "/v2/health/live",
      "/v2/models/{name}/infer",
      "/v2/repository/index",
      "/v1/models",
      "/metrics",
    ]) {
      expect(paths).toHaveProperty([path]);
    }
    const page = String((await server.ask("/docs")).body);
    expect(page).toContain("POST /v2/models/{name}/infer");
    expect(page).toMatch(/Content-Security-Policy" content="default-src/);
    expect(page).not.toMatch(/<script|src="http|href="http/);
  });

  it("find each request in the log under its id", async () => {
    const { headers } = await server.ask("/v2", undefined, { headers: { "x-request-id": "trace-1" } });
    expect(headers.get("x-request-id")).toBe("trace-1");
    const line = server.lines
      .map((one) => JSON.parse(one) as Record<string, unknown>)
      .find(({ reqId }) => reqId === "trace-1");
    expect(line).toMatchObject({ method: "GET", url: "/v2", status: 200, msg: "request" });
  });
});

describe("an API key", () => {
  const apiKey = "a-key-of-some-length";
  let locked: TestServer;
  beforeAll(async () => {
    locked = await serve(home, { apiKey });
  });

  it("is asked for by every route but health", async () => {
    for (const path of [
      "/v2",
      "/v2/models/two",
      "/v1/models",
      "/metrics",
      "/openapi.json",
      "/docs",
      "/nowhere",
      "/v2/health/live/x",
    ]) {
      expect(await locked.ask(path), path).toMatchObject({ status: 401 });
      expect(
        await locked.ask(path, undefined, { headers: { authorization: "Bearer another-key-of-length" } }),
      ).toMatchObject({ status: 401 });
    }
    expect(await locked.ask("/v2/models/two/infer", inferBody(x1))).toMatchObject({ status: 401 });
    expect(await locked.ask("/v2/health/live")).toMatchObject({ status: 200 });
    expect(await locked.ask("/v2/health/ready")).toMatchObject({ status: 200 });
    const headers = { authorization: `Bearer ${apiKey}` };
    expect(await locked.ask("/v2", undefined, { headers })).toMatchObject({ status: 200 });
    expect(await locked.ask("/nowhere", undefined, { headers })).toMatchObject({ status: 404 });
  });

  it("does not reach the log", () => {
    expect(locked.lines.join("")).not.toContain(apiKey);
  });
});

describe("without being asked to", () => {
  it("nothing is loaded or unloaded at run time", async () => {
    const plain = await serve(home);
    for (const [path, body] of [
      ["/v2/repository/models/poet/load", {}],
      ["/v2/repository/models/poet/unload", {}],
      ["/v1/load_lora_adapter", { lora_name: "poet", lora_path: "poet" }],
      ["/v1/unload_lora_adapter", { lora_name: "poet" }],
    ] as const) {
      expect(await plain.ask(path, body), path).toMatchObject({ status: 403 });
    }
    expect(await plain.ask("/v1/adapters/poet/examples", { examples: [] })).toMatchObject({ status: 404 });
    expect(await plain.ask("/v2/models/poet/infer", inferBody(x1))).toMatchObject({ status: 200 });
  });

  it("neither another Host than this machine's nor a page of another is answered on loopback", async () => {
    const { hostname, port } = new URL(server.url);
    const statusWith = (headers: Record<string, string>): Promise<number> =>
      new Promise((resolve, reject) => {
        const path = "/v2/repository/models/critic/load";
        request({ hostname, port, method: "POST", path, headers }, (response) => {
          response.resume();
          resolve(response.statusCode!);
        })
          .on("error", reject)
          .end();
      });
    expect(await statusWith({ host: "rebound.example" })).toBe(403);
    for (const origin of ["http://other.example", "https://localhost.example", "null", "file://"]) {
      expect(await statusWith({ host: "localhost", origin }), origin).toBe(403);
    }
    for (const origin of ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:1"]) {
      expect(await statusWith({ host: "localhost", origin }), origin).toBe(200);
    }
  });
});

describe("hostile names", () => {
  const names = [
    "..",
    "../poet",
    "%2e%2e",
    "%2e%2e%2fpoet",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "poet%00",
    "poet%2f..",
    "C:%5cpoet",
    "a%0d%0ab",
    "x".repeat(200),
    "%ff",
    "con.",
    ".hidden",
    "http:%2f%2fexample.com%2fa",
  ];

  it("are never found, on any route", async () => {
    for (const name of names) {
      for (const [path, body] of [
        [`/v2/models/${name}`, undefined],
        [`/v2/models/${name}/infer`, inferBody(x1)],
        [`/v2/repository/models/${name}/load`, {}],
        [`/v2/repository/models/${name}/unload`, {}],
        [`/v1/models/${name}`, undefined],
      ] as const) {
        const { status, body: answer } = await server.ask(path, body);
        expect([400, 404], `${path}: ${status}`).toContain(status);
        expect(JSON.stringify(answer)).toContain("error");
      }
      const load = await server.ask("/v1/load_lora_adapter", {
        lora_name: decodeURIComponent(name.replace("%ff", "%20")),
        lora_path: "poet",
      });
      expect(load.status).toBe(400);
    }
  });

  it("leave what lies outside of the folder alone, links included", async () => {
    const other = await makeHome();
    const outside = join(other.folder, "outside");
    await mkdir(outside);
    for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
      await writeFile(join(outside, file), await readFile(join(home.adapters, "poet", file)));
    }
    await symlink(outside, join(other.adapters, "linked"));
    await mkdir(join(other.adapters, "halfway"));
    for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
      await symlink(join(outside, file), join(other.adapters, "halfway", file));
    }
    const watched = await serve(other, { allowLoading: true });
    expect(await watched.ask("/v2/models/linked/infer", inferBody(x1))).toMatchObject({ status: 404 });
    expect(await watched.ask("/v2/repository/models/linked/load", {})).toMatchObject({ status: 404 });
    expect(await watched.ask("/v2/models/halfway/infer", inferBody(x1))).toMatchObject({
      status: 400,
      body: { error: expect.stringContaining("a link that leads out") },
    });
  });
});

describe("hostile adapters", () => {
  it("are refused with their faults, and leave the others alone", async () => {
    const bad = await makeHome({ good: poet, big: adapterFor(model, 5, { r: 5 }), huge: poet });
    await mkdir(join(bad.adapters, "torn"));
    const config = await readFile(join(bad.adapters, "good", "adapter_config.json"));
    const weights = await readFile(join(bad.adapters, "good", "adapter_model.safetensors"));
    await writeFile(join(bad.adapters, "torn", "adapter_config.json"), config);
    await writeFile(join(bad.adapters, "torn", "adapter_model.safetensors"), weights.subarray(0, weights.length - 4));
    await writeFile(join(bad.adapters, "huge", "adapter_model.safetensors"), new Uint8Array(100_000));
    await writeFile(join(bad.adapters, "noise.onnx_adapter"), "no adapter");
    const watched = await serve(bad, { maxRank: 4, maxAdapterBytes: 50_000 });
    const ask = async (name: string): Promise<{ status: number; error: string }> => {
      const { status, body } = await watched.ask(`/v2/models/${name}/infer`, inferBody(x1));
      return { status, error: (body as { error?: string }).error ?? "" };
    };
    expect(await ask("torn")).toMatchObject({ status: 400, error: expect.stringContaining('adapter "torn"') });
    expect(await ask("torn")).toMatchObject({ status: 400 });
    expect(await ask("big")).toMatchObject({ status: 400, error: expect.stringMatching(/rank.* 4/) });
    expect(await ask("huge")).toMatchObject({ status: 400, error: expect.stringContaining("at most 50000 bytes") });
    expect(await ask("noise")).toMatchObject({ status: 400 });
    expect(await ask("good")).toMatchObject({ status: 200 });
    const messages = JSON.stringify(await Promise.all(["torn", "big", "huge", "noise"].map(ask)));
    expect(messages).not.toContain(bad.folder);
    expect(await watched.ask("/v2/models/torn/ready")).toMatchObject({ status: 503, body: { ready: false } });
  });
});

describe("files that change", () => {
  it("are loaded anew, and those that vanish are not served", async () => {
    const own = await makeHome({ poet, gone: critic });
    const watched = await serve(own, { reload: 0.05 });
    const ask = async (name: string): Promise<number[] | number> => {
      const { status, body } = await watched.ask(`/v2/models/${name}/infer`, inferBody(x3));
      return status === 200 ? valuesOf(body) : status;
    };
    const [before, after] = [await aloneWith(model, poet, { x: x3 }), await aloneWith(model, critic, { x: x3 })];
    expect(distance((await ask("poet")) as number[], before)).toBeLessThan(tolerance);
    expect(distance((await ask("gone")) as number[], after)).toBeLessThan(tolerance);
    await own.write("poet", critic);
    await rm(join(own.adapters, "gone"), { recursive: true });
    await expect
      .poll(async () => distance((await ask("poet")) as number[], after), { timeout: 5000 })
      .toBeLessThan(tolerance);
    await expect.poll(() => ask("gone"), { timeout: 5000 }).toBe(404);
    // A version beside it is served at once, and the first stays reachable.
    await own.write("poet/2", dora);
    const newest = await aloneWith(model, dora, { x: x3 });
    await expect
      .poll(async () => distance((await ask("poet")) as number[], newest), { timeout: 5000 })
      .toBeLessThan(tolerance);
    const first = await watched.ask("/v2/models/poet/versions/1/infer", inferBody(x3));
    expect(first.body).toMatchObject({ model_version: "1" });
    expect(distance(valuesOf(first.body), after)).toBeLessThan(tolerance);
  });
});

describe("limits", () => {
  it("hold bodies, rows and content types", async () => {
    const small = await serve(home, { maxBody: 2048, maxRows: 2 });
    expect(await small.ask("/v2/models/two/infer", inferBody(x3))).toMatchObject({
      status: 400,
      body: { error: expect.stringContaining("at most 2 rows") },
    });
    expect(await small.ask("/v2/models/two/infer", inferBody(drawn("many", 400, 3)))).toMatchObject({ status: 413 });
    const text = await small.ask("/v2/models/two/infer", undefined, {
      method: "POST",
      body: "{}",
      headers: { "content-type": "text/plain" },
    });
    expect(text).toMatchObject({ status: 415, body: { error: expect.stringContaining("got text/plain") } });
    const packed = await server.ask("/v2/models/two/infer", undefined, {
      method: "POST",
      body: "{}",
      headers: { "content-type": "application/json", "content-encoding": "gzip" },
    });
    expect(packed).toMatchObject({ status: 415, body: { error: expect.stringContaining("Content-Encoding") } });
  });

  it("take a body that does not say what it is, as Triton's clients send it, and curl's", async () => {
    const { hostname, port } = new URL(server.url);
    const body = Buffer.from(JSON.stringify(inferBody(x1)));
    for (const type of [undefined, "application/x-www-form-urlencoded", "Application/JSON; charset=utf-8"]) {
      const headers = { "content-length": body.length, ...(type !== undefined && { "content-type": type }) };
      const status = await new Promise((resolve, reject) => {
        request({ hostname, port, method: "POST", path: "/v2/models/poet/infer", headers }, (response) => {
          response.resume();
          resolve(response.statusCode);
        })
          .on("error", reject)
          .end(body);
      });
      expect(status, String(type)).toBe(200);
    }
  });

  it("answers 429 with Retry-After when the queue is full, and 504 past a deadline", async () => {
    const slow = await serve(home, { maxQueue: 4, maxBatch: 4096, maxDelay: 1000 });
    const asked = Array.from({ length: 6 }, () =>
      slow.ask("/v2/models/two/infer", inferBody(x1, { parameters: { timeout: 200_000 } })),
    );
    const statuses = (await Promise.all(asked)).map(({ status, headers }) => [status, headers.get("retry-after")]);
    expect(statuses.filter(([status]) => status === 429)).toEqual([
      [429, "1"],
      [429, "1"],
    ]);
    expect(statuses.filter(([status]) => status === 504)).toHaveLength(4);
  });
});

describe("requests for adapters that are not loaded yet", () => {
  it("are told at their deadline, and hold nothing then", async () => {
    const slow = await serve(home, { loadDelay: 300, allowLoading: true });
    const late = await slow.ask("/v2/models/poet/infer", inferBody(x1, { parameters: { timeout: 20_000 } }));
    expect(late).toMatchObject({ status: 504, body: { error: expect.stringContaining("to be loaded") } });
    expect(await slow.ask("/v2/models/poet/infer", inferBody(x1))).toMatchObject({ status: 200 });
    expect(await slow.ask("/v2/repository/models/poet/unload", {})).toMatchObject({ status: 200 });
    expect(String((await slow.ask("/metrics")).body)).toMatch(/lowrank_adapters_resident_bytes 0\n/);
  });

  it("are bounded as those that wait for a batch are", async () => {
    const cold = await serve(await makeHome({ poet, critic }), { maxQueue: 2 });
    const asked = Array.from({ length: 12 }, () => cold.ask("/v2/models/poet/infer", inferBody(x1)));
    const statuses = (await Promise.all(asked)).map(({ status }) => status);
    expect(statuses).toContain(200);
    expect(statuses.every((status) => status === 200 || status === 429)).toBe(true);
    expect(await cold.ask("/v2/models/poet/infer", inferBody(x1))).toMatchObject({ status: 200 });
    expect(String((await cold.ask("/metrics")).body)).toMatch(/lowrank_adapters_resident 1\n/);
  });
});

describe("ends", () => {
  it("finishes what it accepted, and then takes no more", async () => {
    const ending = await serve(home, { maxDelay: 300 });
    const asked = Array.from({ length: 5 }, () => ending.ask("/v2/models/poet/infer", inferBody(x1)));
    await expect
      .poll(async () => String((await ending.ask("/metrics")).body))
      .toMatch(/lowrank_requests_in_progress 5/);
    const stopped = ending.stop();
    expect((await Promise.all(asked)).map(({ status }) => status)).toEqual([200, 200, 200, 200, 200]);
    await stopped;
    await expect(ending.ask("/v2/health/live")).rejects.toThrow();
  });

  it("drops what a client has left behind", async () => {
    const waiting = await serve(home, { maxDelay: 1000, maxBatch: 4096 });
    const { hostname, port } = new URL(waiting.url);
    const socket = connect(Number(port), hostname);
    const body = JSON.stringify(inferBody(x1));
    socket.write(
      `POST /v2/models/poet/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    const open = async (): Promise<string> =>
      /lowrank_requests_in_progress (\d+)/.exec(String((await waiting.ask("/metrics")).body))![1]!;
    await expect.poll(open).toBe("1");
    socket.destroy();
    await expect.poll(open, { timeout: 900 }).toBe("0");
    expect(String((await waiting.ask("/metrics")).body)).toMatch(/lowrank_queue_rows 0/);
  });
});
