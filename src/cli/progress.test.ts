import { describe, expect, it } from "vitest";
import { createProgress, nullProgress, type Progress, type ProgressOptions } from "./progress.ts";

class Screen {
  writes: string[] = [];
  columns: number;
  readonly isTTY: boolean;
  constructor(isTTY: boolean, columns = 80) {
    this.isTTY = isTTY;
    this.columns = columns;
  }
  write(text: string): void {
    this.writes.push(text);
  }
}

const plainEnv = { NO_COLOR: "1", TERM: "xterm-256color" };

interface Setup {
  screen: Screen;
  progress: Progress;
  at(seconds: number): void;
  looks(): number;
}

function setup(isTTY: boolean, options: Partial<ProgressOptions> & { columns?: number } = {}): Setup {
  let time = 0;
  let looks = 0;
  const { columns, ...rest } = options;
  const screen = new Screen(isTTY, columns);
  const now = (): number => {
    looks++;
    return 1000 * time;
  };
  const progress = createProgress({ label: "base linear", total: 6_000, stream: screen, env: plainEnv, now, ...rest });
  return {
    screen,
    progress,
    at: (seconds) => {
      time = seconds;
    },
    looks: () => looks,
  };
}

describe("a bar", () => {
  it("shows everything in 80 columns", () => {
    const { screen, progress, at } = setup(true);
    at(19.64);
    progress.update(3_712, { loss: 0.2381 });
    // 79 columns less 67 for the rest leave 12, of which 61.9 % are 7 and a little less than a half.
    expect(screen.writes).toEqual([
      "\rbase linear  ━━━━━━━─────  61 %  3,712/6,000  189 steps/s  loss 0.238  ETA 0:12",
    ]);
  });

  it("ends with the time taken, on a line of its own, once", () => {
    const { screen, progress, at } = setup(true);
    at(31.4);
    progress.update(6_000, { loss: 0.2 });
    screen.writes.length = 0;
    progress.done();
    progress.done();
    progress.update(6_001);
    expect(screen.writes).toEqual([
      "\rbase linear  ━━━━━━━━━━━  100 %  6,000/6,000  191 steps/s  loss 0.200   in 0:31",
      "\n",
    ]);
  });

  it("is drawn at most ten times a second, and costs one look at the clock otherwise", () => {
    const { screen, progress, at, looks } = setup(true);
    const before = looks();
    for (let step = 1; step <= 1_000; step++) {
      at(step / 1_000);
      progress.update(step, { loss: 1 });
    }
    expect(screen.writes).toHaveLength(10);
    expect(looks() - before).toBe(1_000);
  });

  it("drops parts as the terminal narrows", () => {
    const shown = (columns: number): string => {
      const { screen, progress, at } = setup(true, { columns });
      at(10);
      progress.update(1_500, { loss: 0.5 });
      return screen.writes[0]!;
    };
    expect(shown(200)).toBe(
      `\rbase linear  ${"━".repeat(10)}${"─".repeat(30)}  25 %  1,500/6,000  150 steps/s  loss 0.500  ETA 0:30`,
    );
    expect(shown(70)).toBe("\rbase linear  ━━━╸───────────  25 %  150 steps/s  loss 0.500  ETA 0:30");
    expect(shown(50)).toBe("\rbase linear  ━━──────  25 %  loss 0.500  ETA 0:30");
    expect(shown(49)).toBe("\rbase linear  25 %  loss 0.500  ETA 0:30");
    expect(shown(35)).toBe("\rbase linear  25 %  loss 0.500");
    expect(shown(20)).toBe("\rbase linear  25 %");
    expect(shown(10)).toBe("\rbase line");
    expect(shown(0)).toBe(shown(80)); // unknown
    for (let columns = 1; columns <= 120; columns++) expect(shown(columns).length).toBeLessThanOrEqual(columns);
  });

  it("covers what a longer line has left, and does not jitter", () => {
    const { screen, progress, at } = setup(true, { label: "x", columns: 30 });
    at(1);
    progress.update(100, { loss: 12.5 });
    at(2);
    progress.update(240, { loss: 2.5 });
    at(3);
    screen.columns = 17;
    progress.update(300);
    expect(screen.writes).toEqual([
      "\rx  1 %  loss 12.500  ETA 0:59",
      "\rx  4 %   loss 2.500  ETA 0:48",
      "\rx  5 %  ETA 0:57",
    ]);
  });

  it("is taken away by clear and drawn again by the next update", () => {
    const { screen, progress, at } = setup(true, { label: "x", columns: 20, total: 10 });
    progress.clear();
    expect(screen.writes).toEqual([]);
    at(1);
    progress.update(1);
    progress.clear();
    progress.update(2);
    progress.update(3);
    expect(screen.writes).toEqual(["\rx  10 %  ETA 0:09", `\r${" ".repeat(17)}\r`, "\rx  20 %  ETA 0:04"]);
  });

  it("is coloured where the terminal has colour, and of plain characters on a dumb one", () => {
    const draw = (env: Record<string, string>): string => {
      const { screen, progress, at } = setup(true, { label: "x", total: 4, columns: 30, env });
      at(1);
      progress.update(1);
      return screen.writes[0]!;
    };
    expect(draw({ TERM: "xterm" })).toBe("\rx  \u001b[36m━━╸\u001b[39m\u001b[2m───────\u001b[22m  25 %  ETA 0:03");
    expect(draw({ TERM: "dumb" })).toBe("\rx  ##--------  25 %  ETA 0:03");
  });
});

describe("lines", () => {
  it("come every five seconds, and at the end", () => {
    const { screen, progress, at } = setup(false);
    for (let step = 1; step <= 1_200; step++) {
      at(step / 100);
      progress.update(step, { loss: 3 / step });
    }
    progress.done();
    expect(screen.writes).toEqual([
      "base linear  8 %  500/6,000  100 steps/s  loss 0.006  ETA 0:55\n",
      "base linear  16 %  1,000/6,000  100 steps/s  loss 0.003  ETA 0:50\n",
      "base linear  20 %  1,200/6,000  100 steps/s  loss 0.003  in 0:12\n",
    ]);
  });

  it("show slow steps, small and lost losses, resumed runs and bytes", () => {
    const line = (options: Partial<ProgressOptions>, step: number, loss?: number): string => {
      const { screen, progress, at } = setup(false, { label: "x", total: 4_000, ...options });
      at(10);
      progress.update(step, loss === undefined ? undefined : { loss });
      return screen.writes[0]!;
    };
    expect(line({ total: 10 }, 7, 0.00012)).toBe("x  70 %  7/10  0.70 steps/s  loss 1.20e-4  ETA 0:04\n");
    expect(line({}, 400, Number.NaN)).toBe("x  10 %  400/4,000  40 steps/s  loss NaN  ETA 1:30\n");
    expect(line({}, 400, 12_345)).toBe("x  10 %  400/4,000  40 steps/s  loss 1.23e+4  ETA 1:30\n");
    expect(line({ start: 3_000 }, 3_500)).toBe("x  87 %  3,500/4,000  50 steps/s  ETA 0:10\n");
    expect(line({ start: 3_000 }, 3_000)).toBe("x  75 %  3,000/4,000\n");
    expect(line({ unit: "bytes", total: 2 ** 24 }, 2 ** 22)).toBe("x  25 %  4.00 MiB/16.0 MiB  410 KiB/s  ETA 0:30\n");
    expect(line({ total: 0 }, 0)).toBe("x  100 %  0/0\n");
    expect(line({ total: 100 }, 29)).toMatch(/^x {2}29 % /); // 100 * 0.29 is a little less than 29
  });

  it("do not listen to clear", () => {
    const { screen, progress } = setup(false);
    progress.update(1);
    progress.clear();
    progress.update(2);
    expect(screen.writes).toEqual([]);
  });
});

it("shows nothing when quiet", () => {
  expect([nullProgress.update(1, { loss: 1 }), nullProgress.clear(), nullProgress.done()]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
});
