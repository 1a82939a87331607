import { readFileSync } from "node:fs";
import { homedir, hostname, userInfo } from "node:os";
import { expect, it } from "vitest";
import { environment, lowrankVersion } from "./environment.ts";

const input = {
  threads: 2,
  seed: 7,
  data: { "train-images-idx3-ubyte": "ab12" },
  versions: { "onnxruntime-web": "9.9.9" },
};

it("says what the numbers depend on", () => {
  const env = environment(input);
  expect(env.versions.lowrank).toBe(JSON.parse(readFileSync("package.json", "utf8")).version);
  expect(lowrankVersion()).toBe(env.versions.lowrank);
  expect(env.versions.node).toBe(process.versions.node);
  expect(env.versions.v8).toBe(process.versions.v8);
  expect(env.versions["onnxruntime-node"]).toMatch(/^\d+\.\d+\.\d+/);
  expect(env.versions["onnxruntime-web"]).toBe("9.9.9");
  expect([env.platform, env.arch]).toEqual([process.platform, process.arch]);
  expect(env.cores).toBeGreaterThanOrEqual(1);
  expect(env.memory).toBeGreaterThan(2 ** 20);
  expect({ threads: env.threads, seed: env.seed, data: env.data }).toEqual({
    threads: 2,
    seed: 7,
    data: { "train-images-idx3-ubyte": "ab12" },
  });
  expect(Object.keys(env)).toEqual([
    "versions",
    "platform",
    "arch",
    "cpu",
    "cores",
    "memory",
    "threads",
    "seed",
    "data",
  ]);
});

it("names neither user nor host nor place", () => {
  const values = Object.values(environment(input)).flatMap((v) => (typeof v === "object" ? Object.values(v) : [v]));
  for (const secret of [hostname(), userInfo().username, homedir(), process.cwd()])
    expect(values).not.toContain(secret);
  for (const value of values) expect(String(value)).not.toMatch(/^\/|[\\/]home[\\/]/);
});
