// What names a trial, what travels, and through what: inputs by content, bundles, a store in a folder, addresses.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { writeSafetensors } from "../adapter/safetensors.ts";
import { LowrankError } from "../errors.ts";
import { fileError } from "../runs/file-error.ts";
import { tensor } from "../tensor.ts";
import type { RunOptions } from "../tune/option-table.ts";
import { resolveOptions } from "../tune/settings.ts";
import { packFiles, unpackFiles } from "./bundle.ts";
import { fetchInput, fetchPlan } from "./exchange.ts";
import { readFleetRows } from "./fleet.ts";
import { namedOptions, readInputs } from "./inputs.ts";
import { holderOf, lockFile } from "./lock.ts";
import { isPlaceFailure, storeFailure, systemCode } from "./place-failure.ts";
import { queueConnection, queueName } from "./queue-address.ts";
import { openStore, type Store } from "./store.ts";
import { trialId } from "./trials.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-sweep-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (...parts: string[]): string => join(folder, ...parts);
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function options(data: string, more: Record<string, string> = {}): RunOptions {
  return resolveOptions("tune", { data: [data], ...more });
}

async function idOf(own: RunOptions): Promise<string> {
  return trialId(own, await readInputs([own]));
}

describe("a trial's id", () => {
  it("is that of content and options, wherever the files lie and whatever says only where", async () => {
    mkdirSync(at("elsewhere"));
    writeFileSync(at("a.csv"), "x,label\n1,0\n");
    writeFileSync(at("elsewhere", "a.csv"), "x,label\n1,0\n");
    const id = await idOf(options(at("a.csv")));
    expect(id).toMatch(/^[0-9a-f]{20}$/);
    expect(await idOf(options(at("elsewhere", "a.csv"), { out: "x", checkpointEvery: "5" }))).toBe(id);
    expect(await idOf(options(at("a.csv"), { r: "4" }))).not.toBe(id);
    writeFileSync(at("a.csv"), "x,label\n2,0\n");
    expect(await idOf(options(at("a.csv")))).not.toBe(id);
  });

  it("covers the content of every file of a folder", async () => {
    mkdirSync(at("images", "cat"), { recursive: true });
    writeFileSync(at("images", "cat", "1.png"), "one");
    const [before] = (await readInputs([options(at("images"))])).values();
    expect(before!.files.map(({ name }) => name)).toEqual(["images/cat/1.png"]);
    const id = await idOf(options(at("images")));
    writeFileSync(at("images", "cat", "1.png"), "two");
    expect(await idOf(options(at("images")))).not.toBe(id);
  });

  it("calls a folder by its own name, however it was reached", async () => {
    mkdirSync(at("images", "cat"), { recursive: true });
    writeFileSync(at("images", "cat", "1.png"), "one");
    const plain = await readInputs([options(at("images"))]);
    const around = await readInputs([options(`${at("images", "cat")}/..`)]);
    expect([...around.values()]).toEqual([...plain.values()]);
  });

  it("covers what links lead to, and comes to an end where they lead back", async () => {
    mkdirSync(at("images"));
    mkdirSync(at("cats"));
    writeFileSync(at("cats", "1.png"), "one");
    symlinkSync(at("cats"), at("images", "cat"));
    symlinkSync(at("images"), at("cats", "back"));
    const files = async (): Promise<[string, string][]> => {
      const [input] = (await readInputs([options(at("images"))])).values();
      return input!.files.map(({ name, sha256 }) => [name, sha256]);
    };
    const before = await files();
    expect(before.map(([name]) => name)).toEqual(["images/cat/1.png"]);
    writeFileSync(at("cats", "1.png"), "two");
    expect((await files())[0]![1]).not.toBe(before[0]![1]);
  });

  it("names all files that are missing at once", async () => {
    await expect(readInputs([options(at("a.csv")), options(at("b.csv"))])).rejects.toMatchObject({
      code: "file",
      faults: [expect.stringContaining("a.csv"), expect.stringContaining("b.csv")],
    });
  });

  it("and its files say nothing of where it ran", () => {
    const own = options("/data/a.csv", {
      replay: "/data/general.csv=0.5",
      out: "/somewhere",
      model: "/models/base.onnx",
    });
    const replayed = { ...own, replay: ["/data/general.csv=0.5"] };
    expect(namedOptions(replayed)).toMatchObject({
      model: "base.onnx",
      data: ["a.csv"],
      replay: ["general.csv=0.5"],
      out: null,
    });
  });
});

describe("a fleet's rows", () => {
  it("are read from CSV at full precision, fill {columns}, and keep options apart from the rest", async () => {
    writeFileSync(at("rows.csv"), "name,learningRate,city,useDora\nann,0.0012345678901,oslo,true\nbob,0.002,rome,\n");
    const rows = await readFleetRows({ file: at("rows.csv"), rows: [] }, { data: ["{city}/{name}.csv"], r: 4 });
    expect(rows.map(({ name, options: own }) => [name, own])).toEqual([
      ["ann", { data: ["oslo/ann.csv"], r: 4, learningRate: 0.0012345678901, useDora: true }],
      ["bob", { data: ["rome/bob.csv"], r: 4, learningRate: 0.002 }],
    ]);
  });

  it("are read from JSONL", async () => {
    writeFileSync(at("rows.jsonl"), '{"name":"a","layersToTransform":[0,1]}\n{"name":"b","data":["b.csv"]}\n');
    const rows = await readFleetRows({ file: at("rows.jsonl"), rows: [] }, { data: "a.csv" });
    expect(rows.map(({ options: own }) => own)).toEqual([
      { data: "a.csv", layersToTransform: [0, 1] },
      { data: ["b.csv"] },
    ]);
  });

  it("are refused with all faults: names that lead elsewhere, that come twice, columns that nobody uses", async () => {
    const refused = (rows: Record<string, unknown>[], base: Record<string, unknown> = {}) =>
      expect(readFleetRows({ file: null, rows }, base)).rejects;
    await refused([{ name: "../up" }, { name: "a" }, { name: "a" }]).toMatchObject({
      faults: [
        'row 1: name: expected letters, digits, dots, hyphens and underscores, got "../up"',
        "name: expected a different one for each row, got a again",
      ],
    });
    await refused([{ name: "a", learningrate: 1 }], { data: "{tenant}.csv" }).toMatchObject({
      faults: [
        "learningrate: neither an option of tune nor a {learningrate} in tune; did you mean learningRate?",
        "{tenant} in tune: expected a column of this name, got none",
      ],
    });
  });
});

describe("a bundle", () => {
  it("gives back its files, empty ones and those in folders too, and is the same for the same files", () => {
    const files = new Map([
      [".lowrank-run", bytes("x")],
      ["best/adapter_config.json", bytes("{}")],
      ["empty", new Uint8Array()],
    ]);
    const packed = packFiles(files);
    expect(new Map([...unpackFiles(packed, "b")].sort())).toEqual(files);
    expect(packFiles(new Map([...files].reverse()))).toEqual(packed);
  });

  it.each(["../up", "/etc/passwd", "a/../../b", "a\\b", "..", "a//b"])("does not write to %s", (name) => {
    const hostile = writeSafetensors(new Map([[name, tensor("uint8", [1], new Uint8Array(1))]]));
    expect(() => unpackFiles(hostile, "results/x")).toThrow(/results\/x: expected a bundle of files/);
  });
});

describe("a store in a folder", () => {
  let store: Store;
  beforeEach(async () => {
    store = await openStore(at("store"));
  });

  it("keeps objects whole, and knows those that are not there", async () => {
    expect([await store.has("objects/a"), await store.get("objects/a"), await store.stream("objects/a")]).toEqual([
      false,
      null,
      null,
    ]);
    await store.put("objects/a", bytes("one"));
    await store.put("objects/a", bytes("two"));
    expect(await store.has("objects/a")).toBe(true);
    expect(await store.get("objects/a")).toEqual(bytes("two"));
    await store.remove("objects/a");
    expect(await store.has("objects/a")).toBe(false);
  });

  it("hands out inputs only when they are what their hash says", async () => {
    writeFileSync(at("a.csv"), "right");
    const [input] = (await readInputs([options(at("a.csv"))])).values();
    const key = `objects/${input!.files[0]!.sha256}`;
    await store.put(key, bytes("wrong"));
    await expect(fetchInput(store, input!, at("cache"))).rejects.toThrow(/expected this SHA-256, got/);
    expect(readdirSync(at("cache", "inputs"))).toEqual([]);
    await store.put(key, bytes("right"));
    expect(await fetchInput(store, input!, at("cache"))).toBe(join(at("cache", "inputs"), input!.hash, "a.csv"));
  });
});

describe("a plan from a store", () => {
  it("is refused, with all faults, where it would lead out of a worker's folders", async () => {
    const store = await openStore(at("store"));
    const input = { hash: "../..", entry: "..", files: [{ name: "../up", sha256: "00", bytes: 1 }] };
    await store.put(
      "sweeps/x.json",
      bytes(JSON.stringify({ version: 1, trials: [{ id: "../a" }], inputs: { a: input } })),
    );
    await expect(fetchPlan(store, "x")).rejects.toMatchObject({
      faults: [
        'expected a SHA-256 of an input, got "../.."',
        'expected the name of a file, got ".."',
        'expected the name of a file, got "../up"',
        'expected a SHA-256 of a file, got "00"',
        'expected the id of a trial, got "../a"',
      ],
    });
    await expect(fetchPlan(store, "y")).rejects.toThrow(/sweeps\/y\.json: not found/);
  });
});

describe("a failure", () => {
  const full = Object.assign(new Error("no space"), { code: "ENOSPC" });

  it("is the place's where the system or the store says so, however often it was wrapped", () => {
    const wrapped = new LowrankError("file", "checkpoint: cannot write", { cause: fileError("x", "write", full) });
    expect([wrapped, fileError("x", "write", full), storeFailure("s3://b/x: cannot read")].map(isPlaceFailure)).toEqual(
      [true, true, true],
    );
    expect(systemCode(wrapped)).toBe("ENOSPC");
  });

  it("is the training's own else", () => {
    const missing = fileError("x", "read", Object.assign(new Error("gone"), { code: "ENOENT" }));
    for (const error of [missing, new LowrankError("runtime", "the process was ended"), new Error("bug"), full]) {
      expect(isPlaceFailure(error)).toBe(false);
    }
  });
});

describe("a sweep's folder", () => {
  it("says that nobody works in it once the process that did is gone", () => {
    expect(holderOf(folder)).toBeNull();
    const lock = (pid: number, host: string): void => writeFileSync(at(lockFile), JSON.stringify({ pid, host }));
    lock(process.pid, hostname());
    expect(holderOf(folder)).toEqual({ pid: process.pid, host: hostname() });
    lock(2 ** 22 + 1, hostname());
    expect(holderOf(folder)).toBeNull();
    lock(2 ** 22 + 1, "elsewhere");
    expect(holderOf(folder)).toMatchObject({ host: "elsewhere" });
  });
});

describe("an address of a queue", () => {
  it("is read as it is written, with TLS only where it says so", () => {
    const plain = queueConnection("redis://queue");
    expect(plain).toMatchObject({ server: "redis", options: { host: "queue", port: 6379, db: 0 } });
    expect(plain.options).not.toHaveProperty("tls");
    expect(queueConnection("rediss://me:p%40ss@[::1]:6380/2").options).toMatchObject({
      ...{ host: "::1", port: 6380, db: 2, username: "me", password: "p@ss", tls: {} },
    });
    for (const address of ["postgres://me@queue/jobs?sslmode=require", "postgresql://queue:5433/jobs"]) {
      expect(queueConnection(address)).toMatchObject({ server: "postgres", options: { connectionString: address } });
    }
    for (const wrong of ["queue:6379", "http://queue", "redis://queue/x", "postgres://me:p@ss/word@queue/jobs"]) {
      expect(() => queueConnection(wrong)).toThrow(/--queue: expected redis:\/\/host:port/);
    }
  });

  it("is never told with its password", () => {
    expect(queueName("redis://me:secret@queue:6379")).toBe("redis://queue:6379");
    expect(queueName("redis://:se/cr@et@queue:6379")).toBe("redis://queue:6379");
    expect(queueName("postgres://me:secret@queue/jobs")).toBe("postgres://queue/jobs");
    expect(queueName("postgres://queue/jobs?password=secret&sslmode=require")).toBe(
      "postgres://queue/jobs?sslmode=require",
    );
    expect(() => queueConnection("amqp://me:secret@queue")).toThrow(/^(?!.*secret)/);
  });
});
