import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { unpack } from "./gzip.ts";
import { failure } from "./testing/samples.ts";

const content = Uint8Array.from({ length: 10_000 }, (_, i) => (i * i) % 251);
const archive = Uint8Array.from(gzipSync(content));

/** A copy with the byte at `at` (from the end where negative) changed. */
function damaged(at: number): Uint8Array {
  const copy = archive.slice();
  copy[at < 0 ? copy.length + at : at]! ^= 0x55;
  return copy;
}

const followedBy = (tail: Uint8Array): Uint8Array => Uint8Array.from([...archive, ...tail]);

describe("unpack", () => {
  it("unpacks an archive of exactly the limit", async () => {
    expect(await unpack(archive, "f.gz", content.length)).toEqual(content);
  });

  it("unpacks several members as one, as gzip does", async () => {
    const twice = await unpack(followedBy(archive), "f.gz", 2 * content.length);
    expect(twice).toEqual(Uint8Array.from([...content, ...content]));
  });

  it("gives what is no archive as it is", async () => {
    expect(await unpack(content, "f", content.length)).toBe(content);
    expect(await unpack(new Uint8Array(0), "f", 0)).toEqual(new Uint8Array(0));
  });

  it.each<[string, Uint8Array, number, string]>([
    ["content over the limit", archive, content.length - 1, "expected at most 9999 bytes of content, got more"],
    ["a plain file over the limit", content, 10, "expected at most 10 bytes of content, got more"],
    ["a bad CRC", damaged(-8), content.length, "the gzip archive is damaged (bad CRC)"],
    ["a bad length", damaged(-1), content.length, "incorrect length check"],
    ["damaged data", damaged(archive.length >> 1), content.length, "the gzip archive is damaged"],
    ["an unknown compression method", damaged(2), content.length, "the gzip archive is damaged"],
    ["a truncated archive", archive.subarray(0, archive.length >> 1), content.length, "the gzip archive is truncated"],
    ["an archive without its last byte", archive.subarray(0, -1), content.length, "the gzip archive is truncated"],
    ["only the first two bytes", archive.subarray(0, 2), content.length, "the gzip archive is truncated"],
    ["text after the archive", followedBy(Uint8Array.of(120, 121)), content.length, "something follows it"],
    ["one zero after the archive", followedBy(Uint8Array.of(0)), content.length, "1 bytes follow the gzip archive"],
    ["many zeros after it", followedBy(new Uint8Array(70_000)), content.length, "70000 bytes follow the gzip archive"],
    ["a cut-off second member", followedBy(archive.subarray(0, 20)), 2 * content.length, "truncated"],
  ])("refuses %s", async (_, bytes, limit, fault) => {
    const error = await failure(() => unpack(bytes, "evil.gz", limit));
    expect(error).toMatchObject({ name: "LowrankError", code: "data", message: expect.stringContaining(fault) });
    expect(error.message).toMatch(/^evil\.gz: /);
  });

  it("stops a gzip bomb at the limit", async () => {
    const bomb = gzipSync(new Uint8Array(64 * 2 ** 20)); // 64 KB that become 64 MB
    const before = process.memoryUsage().arrayBuffers;
    const error = await failure(() => unpack(bomb, "bomb.gz", 1000));
    expect(error).toMatchObject({ code: "data", message: expect.stringContaining("at most 1000 bytes") });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 2 ** 20);
  });
});
