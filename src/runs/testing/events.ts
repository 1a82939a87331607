// TensorBoard's event files read back, for tests: each record with its CRCs, each event with its step and scalars.
import { readFileSync } from "node:fs";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { expect } from "vitest";
import { maskedCrc } from "../tensorboard.ts";

export interface DecodedEvent {
  wallTime?: number;
  step?: number;
  version?: string;
  values: [string, number][];
}

/** The events of a file; every CRC is held against what it covers. */
export function decodeEvents(path: string): DecodedEvent[] {
  const bytes = new Uint8Array(readFileSync(path));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events: DecodedEvent[] = [];
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

function decodeEvent(data: Uint8Array): DecodedEvent {
  const event: DecodedEvent = { values: [] };
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
