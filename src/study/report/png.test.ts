import { inflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { pngDataUri } from "./png.ts";

describe("pngDataUri", () => {
  it("writes signature, header, rows and end, each chunk with its CRC", () => {
    const uri = pngDataUri(Uint8Array.of(0, 64, 128, 255, 1, 2), 3, 2);
    const prefix = "data:image/png;base64,";
    expect(uri.startsWith(prefix)).toBe(true);
    const png = Buffer.from(uri.slice(prefix.length), "base64");
    expect([...png.subarray(0, 8)]).toEqual([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
    expect([png.readUInt32BE(16), png.readUInt32BE(20), png[24], png[25]]).toEqual([3, 2, 8, 0]);
    const length = png.readUInt32BE(33);
    expect(png.toString("latin1", 37, 41)).toBe("IDAT");
    expect([...inflateSync(png.subarray(41, 41 + length))]).toEqual([0, 0, 64, 128, 0, 255, 1, 2]);
    // The end chunk is the same in every PNG file: no data, "IEND", its CRC.
    expect(png.subarray(-12).toString("hex")).toBe("0000000049454e44ae426082");
  });

  it("refuses pixels that do not fill the image", () => {
    expect(() => pngDataUri(new Uint8Array(5), 3, 2)).toThrow("internal: an image of 3 x 2 needs 6 pixels, got 5");
  });
});
