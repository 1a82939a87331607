import fc from "fast-check";
import { expect, test } from "vitest";
import { Places } from "./places.ts";

const anyKey = fc.oneof(fc.nat(3000), fc.constantFrom(2 ** 22 - 1, 2 ** 22, 2 ** 40, -1, 0.5));

test("examples have the places in which they came, whatever their numbers", () => {
  fc.assert(
    fc.property(fc.uniqueArray(anyKey), fc.array(anyKey), (added, asked) => {
      const places = new Places();
      for (const key of added) {
        expect(places.has(key)).toBe(false);
        places.add(key);
      }
      expect(places.of(added)).toEqual(Int32Array.from(added.keys()));
      for (const key of asked) {
        const place = added.indexOf(key);
        expect(places.has(key)).toBe(place >= 0);
        expect(places.of([key])).toEqual(place >= 0 ? Int32Array.of(place) : null);
      }
    }),
  );
});
