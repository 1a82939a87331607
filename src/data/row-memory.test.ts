import { expect, test } from "vitest";
import { lasting, turningMemory } from "./row-memory.ts";

test("turning memory keeps what was read lately, and fills the rest again", () => {
  const memory = turningMemory();
  const copies: Float32Array[] = [];
  for (let time = 0; time < 10; time++) {
    // Each turn's copies are last read at their own time; those of the time before are still in use.
    memory.turn(time - 1, time - 1);
    for (let part = 0; part < 5; part++) copies.push(memory.float32([time, part], 2) as Float32Array);
    memory.float32(new Float32Array(2 ** 17), 2 ** 17);
    memory.float32(new Float32Array(3).fill(time), 1);
    for (const [index, copy] of copies.slice(-10).entries()) {
      const first = Math.max(0, copies.length - 10);
      expect([...copy]).toEqual([Math.floor((first + index) / 5), (first + index) % 5]);
    }
  }
  expect(new Set(copies.map(({ buffer }) => buffer)).size).toBe(2);
  expect(memory.float64(Float64Array.of(1, 0.1, 7), 2)).toEqual(Float64Array.of(1, 0.1));
});

test("blocks of bytes go where one of the same length was", () => {
  const memory = turningMemory();
  const take = (...lengths: number[]) => lengths.map((length) => memory.bytes(length));
  const first = take(100, 60);
  memory.turn(1, 0);
  const second = take(60, 100);
  memory.turn(2, 2); // the first were last read at 1
  const third = take(60, 100);
  expect(third.map(({ buffer }) => buffer)).toEqual([first[1]!.buffer, first[0]!.buffer]);
  expect(third.map(({ length }) => length)).toEqual([60, 100]);
  const used = new Set([...first, ...second].map(({ buffer }) => buffer));
  expect(used.size).toBe(4);
});

test("lasting memory stays, and rows share it", () => {
  const copies = Array.from({ length: 1000 }, (_, at) => lasting.float64([at, -at], 2));
  expect(copies.every((copy, at) => copy[0] === at && copy[1] === -at)).toBe(true);
  expect(new Set(copies.map(({ buffer }) => buffer)).size).toBeLessThan(3);
});
