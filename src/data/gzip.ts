// Gzip archives (RFC 1952) from places that are not trusted: unpacked up to a limit, and checked to the last byte.
import { createGunzip } from "node:zlib";
import { LowrankError } from "../errors.ts";

/**
 * A file's content: unpacked when it is a gzip archive (by its first two bytes), as it is otherwise.
 *
 * Throws LowrankError "data" naming the file when the content is larger than `maxBytes` (a gzip bomb is not unpacked
 * further than that), when the archive is truncated or damaged (bad checksum), and when anything follows it.
 *
 * @example
 * const content = await unpack(await readFile("train-labels-idx1-ubyte.gz"), "train-labels-idx1-ubyte.gz", 60_008);
 */
export async function unpack(bytes: Uint8Array, name: string, maxBytes: number): Promise<Uint8Array> {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) {
    if (bytes.length > maxBytes) throw tooLarge(name, maxBytes);
    return bytes;
  }
  const gunzip = createGunzip({ chunkSize: 1 << 20 });
  gunzip.end(bytes);
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of gunzip) {
      size += chunk.length;
      if (size > maxBytes) throw tooLarge(name, maxBytes); // leaving the loop destroys the stream
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    throw new LowrankError("data", `${name}: ${gzipFault(error)}; get the file again`, { cause: error });
  }
  // zlib stops at zeros after the archive without a word; everything else there it reads as a second, bad archive.
  const trailing = bytes.length - gunzip.bytesWritten;
  if (trailing > 0) throw new LowrankError("data", `${name}: ${trailing} bytes follow the gzip archive`);
  return concatenate(chunks, size);
}

/** The chunks one after another, `size` bytes in all. */
export function concatenate(chunks: readonly Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

function tooLarge(name: string, maxBytes: number): LowrankError {
  return new LowrankError("data", `${name}: expected at most ${maxBytes} bytes of content, got more`);
}

function gzipFault(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "Z_BUF_ERROR") return "the gzip archive is truncated";
  if (message === "incorrect data check") return "the gzip archive is damaged (bad CRC)";
  return `the gzip archive is damaged, or something follows it (${message})`;
}
