import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { crc32c, cutEvents, eventFileName, isEventFile, openEvents } from "./tensorboard.ts";
import { decodeEvents } from "./testing/events.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-events-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe("crc32c", () => {
  // RFC 3720, appendix B.4.
  it.each([
    ["32 zeros", new Uint8Array(32), 0x8a9136aa],
    ["32 ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ["counting up", Uint8Array.from({ length: 32 }, (_, at) => at), 0x46dd794e],
    ["counting down", Uint8Array.from({ length: 32 }, (_, at) => 31 - at), 0x113fdb5c],
    ["123456789", new TextEncoder().encode("123456789"), 0xe3069283],
  ])("of %s", (_, data, expected) => {
    expect(crc32c(data)).toBe(expected);
  });
});

describe("openEvents", () => {
  it("writes the version, then scalars by step, with good CRCs", () => {
    let time = 100;
    const events = openEvents(folder, { started: new Date(5e9), now: () => time++ });
    events.append(1, { loss: 2.5, "learning rate": 0.125 });
    events.append(2, { "target/accuracy": 0.75, "target/loss": Number.NaN });
    events.flush();
    expect(basename(events.path)).toMatch(/^events\.out\.tfevents\.0005000000\.[A-Za-z0-9.-]+$/);
    expect(decodeEvents(events.path)).toEqual([
      { wallTime: 100, version: "brain.Event:2", values: [] },
      {
        wallTime: 101,
        step: 1,
        values: [
          ["loss", 2.5],
          ["learning rate", 0.125],
        ],
      },
      { wallTime: 102, step: 2, values: [["target/accuracy", 0.75]] },
    ]);
  });

  it("begins as every event file does, and writes fields by their numbers", () => {
    const events = openEvents(folder, { started: new Date(0), now: () => 0 });
    events.append(7, { a: 1 });
    events.flush();
    const bytes = readFileSync(events.path);
    // The length of a first event, 24, and TensorFlow's masked CRC of it.
    expect(bytes.subarray(0, 12).toString("hex")).toBe("1800000000000000a37f4b22");
    // step 7; summary { value { tag "a", simple_value 1 } }
    const second = [0x10, 7, 0x2a, 10, 0x0a, 8, 0x0a, 1, 0x61, 0x15, 0, 0, 0x80, 0x3f];
    expect([...bytes.subarray(-4 - second.length, -4)]).toEqual(second);
  });

  it("collects, and writes when it has enough", () => {
    const events = openEvents(folder, { flushAtBytes: 100 });
    events.append(1, { loss: 1 });
    expect(decodeEvents(events.path)).toHaveLength(1);
    for (let step = 2; step <= 4; step++) events.append(step, { loss: 1 });
    expect(decodeEvents(events.path).length).toBeGreaterThan(1);
  });

  it("names the folder that is not there", () => {
    expect(() => openEvents(join(folder, "none"))).toThrow(/none.*cannot write/);
    expect(eventFileName(new Date(1e12))).toMatch(/^events\.out\.tfevents\.1000000000\./);
  });
});

describe("cutEvents", () => {
  const steps = (path: string): (number | undefined)[] => decodeEvents(path).map(({ step }) => step);

  it("leaves what comes up to a step, and begins another file in another name", () => {
    const started = new Date(1e12);
    const events = openEvents(folder, { started });
    for (let step = 1; step <= 9; step++) events.append(step, { loss: step });
    events.append(9, { "target/loss": 3 });
    events.close();
    cutEvents(events.path, 9);
    expect(steps(events.path)).toEqual([undefined, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]);
    cutEvents(events.path, 4);
    expect(steps(events.path)).toEqual([undefined, 1, 2, 3, 4]);
    const next = openEvents(folder, { started });
    expect([events.name, next.name].map((name) => name.split(".")[3])).toEqual(["1000000000", "1000000001"]);
    expect([events.name, next.name].toSorted()).toEqual([events.name, next.name]);
    next.close();
    cutEvents(events.path, 0);
    expect(steps(events.path)).toEqual([undefined]);
  });

  it("leaves out a record that was being written, and what comes after one that is damaged", () => {
    const events = openEvents(folder);
    for (let step = 1; step <= 3; step++) events.append(step, { loss: step });
    events.close();
    const whole = readFileSync(events.path);
    for (const missing of [1, 11, 30]) {
      writeFileSync(events.path, whole);
      truncateSync(events.path, whole.length - missing);
      cutEvents(events.path, 100);
      expect(steps(events.path)).toEqual([undefined, 1, 2]);
    }
    const damaged = Buffer.from(whole);
    damaged[whole.length - 20]! ^= 1;
    writeFileSync(events.path, damaged);
    cutEvents(events.path, 100);
    expect(steps(events.path)).toEqual([undefined, 1, 2]);
  });

  it("knows event files by their names", () => {
    expect([eventFileName(new Date(0)), "metrics.jsonl"].map(isEventFile)).toEqual([true, false]);
    expect(() => cutEvents(join(folder, "none"), 1)).toThrow(/none.*cannot write/);
  });
});
