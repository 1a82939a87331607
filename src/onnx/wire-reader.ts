// Values of protobuf's encoding, one after the other. What @bufbuild/protobuf's BinaryReader does, for the types that ONNX has and
// without the checks that wire.ts makes before: a page that loads models is half a kilobyte smaller for it.

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Reads from `pos` on. The caller has checked that a value ends within the bytes. */
export class WireReader {
  pos = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The number and the wire type of a field. Throws Error for one that protobuf does not know. */
  tag(): [number: number, wireType: number] {
    const start = this.pos;
    const tag = this.uint32();
    const [number, wireType] = [tag >>> 3, tag & 7];
    const length = this.pos - start;
    const overflows = length > 5 || (length === 5 && this.#bytes[this.pos - 1]! > 0x0f);
    if (overflows || number === 0 || wireType > 5) {
      throw new Error(`illegal tag: field ${number}, wire type ${wireType}`);
    }
    return [number, wireType];
  }

  /** The low 32 bits of a varint. */
  uint32(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#byte();
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    throw new Error("a number of more than 10 bytes");
  }

  int32(): number {
    return this.uint32() | 0;
  }

  uint64(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#byte();
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw new Error("a number of more than 10 bytes");
  }

  int64(): bigint {
    return BigInt.asIntN(64, this.uint64());
  }

  #byte(): number {
    const byte = this.#bytes[this.pos++];
    if (byte === undefined) throw new Error("a number that does not end");
    return byte;
  }

  float(): number {
    this.pos += 4;
    return this.#view.getFloat32(this.pos - 4, true);
  }

  double(): number {
    this.pos += 8;
    return this.#view.getFloat64(this.pos - 8, true);
  }

  /** A view. */
  bytes(): Uint8Array {
    const length = this.uint32();
    this.pos += length;
    return this.#bytes.subarray(this.pos - length, this.pos);
  }

  string(): string {
    return utf8.decode(this.bytes());
  }
}
