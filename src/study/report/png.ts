// A grayscale image as a PNG data URI. Format: W3C PNG (third edition), sections 5 and 11: signature, IHDR, IDAT, IEND,
// each chunk with its length and CRC-32.
import { crc32, deflateSync } from "node:zlib";

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Eight-bit gray, 0 is black. `pixels` is [height * width], row by row. */
export function pngDataUri(pixels: Uint8Array, width: number, height: number): string {
  if (pixels.length !== width * height) {
    throw new Error(`internal: an image of ${width} x ${height} needs ${width * height} pixels, got ${pixels.length}`);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 8; // bits a sample; colour type, compression, filter and interlace stay 0
  const rows = Buffer.alloc(height * (width + 1)); // each row opens with its filter, 0: none
  for (let row = 0; row < height; row++)
    rows.set(pixels.subarray(row * width, (row + 1) * width), row * (width + 1) + 1);
  const image = [chunk("IHDR", header), chunk("IDAT", deflateSync(rows, { level: 9 })), chunk("IEND", Buffer.alloc(0))];
  return `data:image/png;base64,${Buffer.concat([SIGNATURE, ...image]).toString("base64")}`;
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const check = Buffer.alloc(4);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}
