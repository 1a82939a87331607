import { expect, it } from "vitest";
import { atExit } from "./at-exit.ts";

it("runs what is registered once, whatever another cleanup throws, with one listener for all", () => {
  const before = process.listeners("exit");
  const ran: string[] = [];
  const back = [
    atExit(() => {
      throw new Error("first");
    }),
    atExit(() => ran.push("second")),
    atExit(() => ran.push("third")),
  ];
  back[2]!();
  const added = process.listeners("exit").filter((listener) => !before.includes(listener));
  expect(added).toHaveLength(1);
  added[0]!(130);
  expect(ran).toEqual(["second"]);
  added[0]!(130);
  expect(ran).toEqual(["second"]);
  for (const takeBack of back) takeBack();
  process.off("exit", added[0]!);
});

it("takes its listener back with the last cleanup", () => {
  const before = process.listenerCount("exit");
  const [first, second] = [atExit(() => {}), atExit(() => {})];
  expect(process.listenerCount("exit")).toBe(before + 1);
  first();
  expect(process.listenerCount("exit")).toBe(before + 1);
  second();
  second();
  expect(process.listenerCount("exit")).toBe(before);
});
