import { expect, test } from "vitest";
import { lasting, turningMemory } from "./row-memory.ts";

test("turning memory keeps what was copied since the last turn but one, and then fills it again", () => {
  const memory = turningMemory();
  const copies: Float32Array[] = [];
  for (let turn = 0; turn < 10; turn++) {
    memory.turn();
    // Two arrays and a bit.
    for (let part = 0; part < 5; part++) copies.push(memory.float32([turn, part], 2) as Float32Array);
    memory.float32(new Float32Array(2 ** 17), 2 ** 17);
    memory.float32(new Float32Array(3).fill(turn), 1);
    for (const [index, copy] of copies.slice(-15).entries()) {
      const first = Math.max(0, copies.length - 15);
      expect([...copy]).toEqual([Math.floor((first + index) / 5), (first + index) % 5]);
    }
  }
  const memories = new Set(copies.map(({ buffer }) => buffer));
  expect(memories.size).toBeLessThan(10);
  const blocks = Array.from({ length: 7 }, (_, turn) => {
    memory.turn();
    return memory.bytes(turn < 4 ? 100 : 60).fill(turn);
  });
  expect(blocks.map(({ length }) => length)).toEqual([100, 100, 100, 100, 60, 60, 60]);
  expect(blocks.slice(-3).map(([first]) => first)).toEqual([4, 5, 6]);
  expect(new Set(blocks.map(({ buffer }) => buffer)).size).toBe(3);
  expect(memory.float64(Float64Array.of(1, 0.1, 7), 2)).toEqual(Float64Array.of(1, 0.1));
});

test("lasting memory stays, and rows share it", () => {
  const copies = Array.from({ length: 1000 }, (_, at) => lasting.float64([at, -at], 2));
  expect(copies.every((copy, at) => copy[0] === at && copy[1] === -at)).toBe(true);
  expect(new Set(copies.map(({ buffer }) => buffer)).size).toBeLessThan(3);
});
