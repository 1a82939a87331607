// TensorBoard's event files, so that runs show up there. A file is a sequence of TFRecords: length (uint64), masked CRC-32C of
// it, the record, masked CRC-32C of that, all little-endian (tensorflow/core/lib/io/record_writer.h). Each record is an Event
// (tensorflow/core/util/event.proto), whose few fields are written here by hand: wall_time = 1, step = 2, file_version = 3,
// summary = 5; Summary.value = 1; Value.tag = 1, simple_value = 2.
import { appendFileSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { atExit } from "./at-exit.ts";
import { fileError } from "./file-error.ts";

/** Scalars by tag: `loss`, `target/accuracy`. TensorBoard groups tags by what stands before the slash. */
export type Scalars = Readonly<Record<string, number>>;

export interface EventLog {
  readonly path: string;
  /** Its name in the folder. */
  readonly name: string;
  /** Adds scalars at a step; those that are not finite are left out. Throws LowrankError "file" when the disk refuses. */
  append(step: number, scalars: Scalars): void;
  /** Writes what is collected. */
  flush(): void;
  /** Flushes; what a log that nobody closes has collected is written when the process ends. */
  close(): void;
}

export interface EventLogOptions {
  /** When the run began; names the file. Default: now. */
  readonly started?: Date;
  /** Seconds since 1970, for the events' wall time. */
  readonly now?: () => number;
  /** Bytes that are collected before they are written; default 65,536. */
  readonly flushAtBytes?: number;
}

/**
 * Begins an event file in `folder`. Its name is as TensorBoard expects it: `events.out.tfevents.<seconds>.<host>`; where one of
 * that name is there, the next second that is free. TensorBoard joins the files of a folder in the order of their names.
 *
 * @example
 * const events = openEvents("runs/first");
 * events.append(1, { loss: 2.31, "learning rate": 1e-3 });
 * events.flush();
 */
export function openEvents(folder: string, options: EventLogOptions = {}): EventLog {
  const { started = new Date(), now = () => Date.now() / 1000, flushAtBytes = 65_536 } = options;
  const name = freeName(folder, started);
  const path = join(folder, name);
  let waiting: Uint8Array[] = [];
  let size = 0;
  write(path, () => writeFileSync(path, record(encodeEvent({ wallTime: now(), fileVersion: "brain.Event:2" }))));
  const flush = (): void => {
    if (size === 0) return;
    const bytes = Buffer.concat(waiting);
    [waiting, size] = [[], 0];
    appendWhole(path, bytes);
  };
  const forget = atExit(flush);
  return {
    path,
    name,
    append(step, scalars) {
      const bytes = record(encodeEvent({ wallTime: now(), step, scalars }));
      waiting.push(bytes);
      size += bytes.length;
      if (size >= flushAtBytes) flush();
    },
    flush,
    close() {
      forget();
      flush();
    },
  };
}

/** Whether a file of this name holds events. */
export function isEventFile(name: string): boolean {
  return name.startsWith(prefix);
}

/**
 * Cuts off what an event file has after `step`, and a record that was being written when the process was killed: whoever goes
 * on from there writes those steps again, to a file of its own, since a TensorBoard that is open would lose its place in this one.
 *
 * @throws LowrankError "file" when it cannot be read or written.
 */
export function cutEvents(path: string, step: number): void {
  write(path, () => {
    const bytes = readFileSync(path);
    let end = 0;
    for (const { data, after } of recordsOf(bytes)) {
      if (stepOf(data) > step) break;
      end = after;
    }
    if (end < bytes.length) truncateSync(path, end);
  });
}

/** The whole records at the beginning of a file, each with the place where it ends. */
function* recordsOf(bytes: Uint8Array): Generator<{ readonly data: Uint8Array; readonly after: number }> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + 16 <= bytes.length; ) {
    const length = view.getBigUint64(at, true);
    if (length > BigInt(bytes.length - at - 16)) return;
    const [start, end] = [at + 12, at + 12 + Number(length)];
    const data = bytes.subarray(start, end);
    if (view.getUint32(end, true) !== maskedCrc(data)) return;
    at = end + 4;
    yield { data, after: at };
  }
}

/** The step of an event; that of the one that begins a file is 0. */
function stepOf(event: Uint8Array): number {
  const reader = new BinaryReader(event);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field === 2) return Number(reader.int64());
    reader.skip(wire);
  }
  return 0;
}

function freeName(folder: string, started: Date): string {
  for (let time = started.getTime(); ; time += 1000) {
    const name = eventFileName(new Date(time));
    if (!existsSync(join(folder, name))) return name;
  }
}

const prefix = "events.out.tfevents.";

/** The name of a run's event file. */
export function eventFileName(started: Date): string {
  const seconds = String(Math.floor(started.getTime() / 1000)).padStart(10, "0");
  // A host's name may hold anything; a file's may not.
  return `${prefix}${seconds}.${hostname().replace(/[^A-Za-z0-9.-]/g, "-") || "host"}`;
}

interface Event {
  readonly wallTime: number;
  readonly step?: number;
  readonly fileVersion?: string;
  readonly scalars?: Scalars;
}

function encodeEvent({ wallTime, step, fileVersion, scalars = {} }: Event): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.Bit64).double(wallTime);
  if (step !== undefined) writer.tag(2, WireType.Varint).int64(step);
  if (fileVersion !== undefined) writer.tag(3, WireType.LengthDelimited).string(fileVersion);
  const finite = Object.entries(scalars).filter(([, value]) => Number.isFinite(value));
  if (finite.length > 0) {
    writer.tag(5, WireType.LengthDelimited).fork();
    for (const [tag, value] of finite) {
      writer.tag(1, WireType.LengthDelimited).fork();
      writer.tag(1, WireType.LengthDelimited).string(tag);
      writer.tag(2, WireType.Bit32).float(clamped(value));
      writer.join();
    }
    writer.join();
  }
  return writer.finish();
}

/** What float32 can hold. */
function clamped(value: number): number {
  const most = 3.4028234663852886e38;
  return Math.max(-most, Math.min(most, value));
}

/** A TFRecord. */
function record(data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + data.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc(bytes.subarray(0, 8)), true);
  bytes.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc(data), true);
  return bytes;
}

/** CRCs of data that holds CRCs are weak, hence TensorFlow's mask: rotated right by 15 bits, plus a constant. */
export function maskedCrc(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** CRC-32C (Castagnoli), reflected, polynomial 0x82f63b78: RFC 3720, appendix B.4. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const table: Uint32Array = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** Appends, or, when the disk fills up in the middle, leaves the file as it was. */
function appendWhole(path: string, bytes: Uint8Array): void {
  write(path, () => {
    const before = statSync(path).size;
    try {
      appendFileSync(path, bytes);
    } catch (error) {
      truncateSync(path, before);
      throw error;
    }
  });
}

function write(path: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw fileError(path, "write", error);
  }
}
