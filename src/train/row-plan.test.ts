import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { planRows } from "./row-plan.ts";

const numbers = (values: BigInt64Array) => [...values].map(Number);

describe("planRows", () => {
  it("brings each row to a slot of its adapter, once", () => {
    const adapter = fc.option(fc.integer({ min: 0, max: 9 }), { nil: null });
    fc.assert(
      fc.property(
        fc.array(adapter, { minLength: 1, maxLength: 60 }).filter((rows) => rows.some((one) => one !== null)),
        fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 20 }),
        (wanted, held) => {
          const { slots, places, rowOf, where, back } = planRows(wanted, held);
          expect(rowOf).toHaveLength(slots.length * places);
          const adapted = wanted.flatMap((one, row) => (one === null ? [] : [row]));
          expect(numbers(where).sort((a, b) => a - b)).toEqual(adapted);
          numbers(where).forEach((row, index) => {
            const place = Number(back[index]);
            expect(Number(rowOf[place])).toBe(row);
            expect(slots[Math.floor(place / places)]).toBe(wanted[row]);
          });
        },
      ),
    );
  });

  it("lets adapters keep the slots that they have", () => {
    expect(planRows([4, 7, 2, 9], [2, 3, 4, 5]).slots).toEqual([2, expect.anything(), 4, expect.anything()]);
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(), { minLength: 1, maxLength: 40 }), (ids) => {
        expect(planRows([...ids].reverse(), ids).slots).toEqual(ids);
      }),
    );
  });

  it.each([
    ["all different", Array.from({ length: 256 }, (_, row) => row), 256, 1],
    ["eight in turn", Array.from({ length: 256 }, (_, row) => row % 8), 8, 32],
    ["all the same", new Array<number>(256).fill(3), 1, 256],
    ["one of many rows among single ones", [...new Array<number>(64).fill(0), 1, 2, 3, 4], 5, 64],
  ])("%s", (_, wanted, slots, places) => {
    const plan = planRows(wanted);
    expect([plan.slots.length, plan.places]).toEqual([slots, places]);
  });

  it("splits an adapter of many rows rather than computing most places in vain", () => {
    const wanted = [...new Array<number>(128).fill(0), ...Array.from({ length: 128 }, (_, row) => row + 1)];
    const { slots, places } = planRows(wanted);
    expect(slots.length * places).toBeLessThan(2 * wanted.length);
  });
});
