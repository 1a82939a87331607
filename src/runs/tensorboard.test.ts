import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { crc32c, eventFileName, maskedCrc, openEvents } from "./tensorboard.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-events-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Decoded {
  wallTime?: number;
  step?: number;
  version?: string;
  values: [string, number][];
}

/** Reads a file record by record, and holds every CRC against what it covers. */
function decodeFile(path: string): Decoded[] {
  const bytes = new Uint8Array(readFileSync(path));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events: Decoded[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(view.getBigUint64(at, true));
    expect(view.getUint32(at + 8, true)).toBe(maskedCrc(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(view.getUint32(at + 12 + length, true)).toBe(maskedCrc(data));
    events.push(decodeEvent(data));
    at += 16 + length;
  }
  return events;
}

function decodeEvent(data: Uint8Array): Decoded {
  const event: Decoded = { values: [] };
  const reader = new BinaryReader(data);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field === 1) event.wallTime = reader.double();
    else if (field === 2) event.step = Number(reader.int64());
    else if (field === 3) event.version = reader.string();
    else if (field === 5) event.values.push(...decodeSummary(reader.bytes()));
    else reader.skip(wire);
  }
  return event;
}

function decodeSummary(data: Uint8Array): [string, number][] {
  const values: [string, number][] = [];
  const reader = new BinaryReader(data);
  while (reader.pos < reader.len) {
    reader.tag();
    const value = new BinaryReader(reader.bytes());
    let [tag, number] = ["", Number.NaN];
    while (value.pos < value.len) {
      const [field] = value.tag();
      if (field === 1) tag = value.string();
      else number = value.float();
    }
    values.push([tag, number]);
  }
  return values;
}

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
    expect(decodeFile(events.path)).toEqual([
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
    expect(decodeFile(events.path)).toHaveLength(1);
    for (let step = 2; step <= 4; step++) events.append(step, { loss: 1 });
    expect(decodeFile(events.path).length).toBeGreaterThan(1);
  });

  it("names the folder that is not there", () => {
    expect(() => openEvents(join(folder, "none"))).toThrow(/none.*cannot write/);
    expect(eventFileName(new Date(1e12))).toMatch(/^events\.out\.tfevents\.1000000000\./);
  });
});
