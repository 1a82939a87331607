// A trial reading of a Parquet file, run by parquet-trial.ts as a process of its own: node parquet-trial-process.js PATH.
// Damaged counts make a reader loop for hours, or fill memory until the process is aborted; here only this process is.
// The first thread watches what a second one, which reads, has used of processor time and memory since the last row group.
// On stdout: a line of JSON, {"groups": n}, or {"fault": "…", "group": n} (group null: the file's metadata).
import { open } from "node:fs/promises";
import { totalmem } from "node:os";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const mebibyte = 2 ** 20;

/** @typedef {{ group: number | null, bytes: number, cells: number }} Portion what is read next, with its size */

/**
 * Processor seconds that reading a portion may take: ten times what whole files were seen to take, and a start.
 * @param {Portion} portion
 */
function secondsFor({ bytes, cells }) {
  return 0.5 + bytes / (4 * mebibyte) + 5e-6 * Math.min(cells, 2 ** 24);
}

/**
 * Bytes that this process may take while it reads a portion.
 * @param {Portion} portion
 */
function memoryFor({ bytes, cells }) {
  return Math.min(totalmem() / 2, 512 * mebibyte + 16 * bytes + 128 * Math.min(cells, 2 ** 26));
}

if (isMainThread) watch();
else await read(workerData);

function watch() {
  const path = process.argv[2];
  const limitMb = Math.ceil(totalmem() / 2 / mebibyte);
  const worker = new Worker(new URL(import.meta.url), {
    workerData: path,
    resourceLimits: { maxOldGenerationSizeMb: limitMb },
  });
  /** @type {Portion} */
  let portion = { group: null, bytes: 0, cells: 0 };
  let start = processorSeconds();
  let reading = false;
  const end = (/** @type {object} */ result) => {
    process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit());
  };
  worker.on("message", (message) => {
    if ("bytes" in message) [portion, start, reading] = [message, processorSeconds(), true];
    else end(message);
  });
  worker.on("error", ({ message }) => end({ fault: message, group: portion.group }));
  setInterval(() => {
    if (!reading) return; // the packages are being loaded
    const { group } = portion;
    const [seconds, memory] = [secondsFor(portion), memoryFor(portion)];
    if (processorSeconds() - start > seconds) {
      end({ fault: `it is not read after ${seconds.toPrecision(2)} s of processor time; is it damaged?`, group });
    } else if (process.memoryUsage.rss() > memory) {
      end({ fault: `it takes more than ${Math.round(memory / mebibyte)} MiB to read; is it damaged?`, group });
    }
  }, 50);
  // Whoever started this is gone: nobody waits for an answer.
  process.stdin.resume().on("end", () => process.exit());
}

function processorSeconds() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** @param {string} path */
async function read(path) {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  /** @type {number | null} */
  let group = null;
  const begin = (/** @type {number} */ bytes, /** @type {number} */ cells) =>
    parentPort?.postMessage({ group, bytes, cells });
  try {
    const handle = await open(path);
    const { size } = await handle.stat();
    const file = {
      byteLength: size,
      slice: async (/** @type {number} */ start, end = size) => {
        const from = start < 0 ? size + start : start;
        const length = Math.min(end, size) - from;
        if (!(from >= 0 && length >= 0)) throw new RangeError(`bytes ${from} to ${end} of ${size} are asked for`);
        const bytes = new Uint8Array(length);
        const { bytesRead } = await handle.read(bytes, 0, length, from);
        if (bytesRead < length) throw new RangeError("the file ends before its data does");
        return bytes.buffer;
      },
    };
    begin(Math.min(size, 64 * mebibyte), 0);
    const metadata = await parquetMetadataAsync(file);
    const columns = parquetSchema(metadata).children.length;
    let rowStart = 0;
    for (const { num_rows, columns: chunks } of metadata.row_groups) {
      group = group === null ? 0 : group + 1;
      const rows = Number(num_rows);
      const bytes = chunks.reduce((sum, chunk) => sum + Number(chunk.meta_data?.total_compressed_size ?? 0), 0);
      begin(Math.max(0, Math.min(bytes, size)), rows * columns);
      await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd: rowStart + rows });
      rowStart += rows;
    }
    parentPort?.postMessage({ groups: metadata.row_groups.length });
  } catch (error) {
    parentPort?.postMessage({ fault: error instanceof Error ? error.message : String(error), group });
  }
}
