import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkMarkup, usedNames, visibleText } from "../../runs/report/testing/markup.ts";
import type { StudyResult } from "../result.ts";
import { renderReport } from "./report.ts";
import { allDead, oneHead, studyFixture, withoutReplay } from "./testing/fixture.ts";

/** Takes the drawn part away: a run that left only its summary. */
function summaryOnly(result: StudyResult): StudyResult {
  return { summary: result.summary, details: {} };
}

const cases: [string, () => StudyResult][] = [
  ["both heads", studyFixture],
  ["the ReLU head alone", () => oneHead("relu")],
  ["the linear head alone", () => oneHead("linear")],
  ["no replay", () => withoutReplay(studyFixture())],
  ["all outputs dead", allDead],
  ["a summary without its details", () => summaryOnly(studyFixture())],
  ["no head at all", () => ({ summary: { ...studyFixture().summary, complete: false, heads: {} }, details: {} })],
];

describe("renderReport, any run", () => {
  it.each(cases)("is one well-formed, self-contained page: %s", (_, make) => {
    const page = renderReport(make());
    expect(checkMarkup(page)).toEqual([]);
    expect(page.match(/https?:|@import|url\(|NaN|undefined|\[object|Infinity/)).toBeNull();
    const forbidden = /^(script|iframe|object|embed|form|base)$|\.(style|on[a-z]+)$/;
    expect([...usedNames(page)].filter((name) => forbidden.test(name))).toEqual([]);
    expect(page.length).toBeLessThan(400_000);
  });

  it.each(cases)("names a text alternative for every chart: %s", (_, make) => {
    const page = renderReport(make());
    for (const [, id] of page.matchAll(/<svg [^>]*role="img" aria-labelledby="([^"]*)-title /g)) {
      expect(page).toMatch(
        new RegExp(`<title id="${id}-title">[^<]{10,}</title><desc id="${id}-desc">[^<]{10,}</desc>`),
      );
    }
    expect(page.match(/<svg /g)?.length).toBe(page.match(/role="img" aria-labelledby=/g)?.length);
    expect(page.match(/<figure>/g)?.length).toBe(page.match(/<details>/g)?.length);
  });

  it("links only to sections that are there", () => {
    for (const [, make] of cases) {
      const page = renderReport(make());
      for (const [, id] of page.matchAll(/href="#([^"]*)"/g)) expect(page).toContain(`<section id="${id}">`);
    }
  });

  it("allows its one style sheet by its hash, and nothing else", () => {
    const page = renderReport(studyFixture());
    const sheets = [...page.matchAll(/<style>([\s\S]*?)<\/style>/g)];
    expect(sheets).toHaveLength(1);
    const hash = createHash("sha256").update(sheets[0]![1]!).digest("base64");
    expect(page).toContain(
      `<meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; style-src &#39;sha256-${hash}&#39;; img-src data:; base-uri &#39;none&#39;; form-action &#39;none&#39;">`,
    );
  });

  it("is the same for the same result", () => {
    expect(renderReport(studyFixture())).toBe(renderReport(studyFixture()));
  });
});

describe("renderReport, the numbers", () => {
  const text = visibleText(renderReport(studyFixture()));

  it("has the summary table and the sizes of the documented network", () => {
    const rows = ["Linear-1 [-1, 1000] 785,000", "ReLU-2 [-1, 1000] 0", "Linear-3 [-1, 2000] 2,002,000"];
    rows.push("ReLU-4 [-1, 2000] 0", "Linear-5 [-1, 10] 20,010", "ReLU-6 [-1, 10] 0", "Total params 2,807,010");
    rows.push("Input size (MB) 0.00", "Forward/backward pass size (MB) 0.05", "Params size (MB) 10.71");
    rows.push("Estimated total size (MB) 10.76");
    for (const row of rows) expect(text).toContain(row);
  });

  it("has what LoRA adds, layer by layer", () => {
    expect(text).toContain("Linear-1 785,000 784 1,000 1,784");
    expect(text).toContain("Linear-3 2,002,000 1,000 2,000 3,000");
    expect(text).toContain("Linear-5 20,010 2,000 10 2,010");
    expect(text).toContain("LoRA adds 6,794 parameters, 0.242 % of the base’s 2,807,010, for 2,813,804 in all.");
  });

  it("has every wrong count of every digit and run", () => {
    const { heads } = studyFixture().summary;
    for (const head of [heads.relu!, heads.linear!]) {
      for (let digit = 0; digit < 10; digit++) {
        const runs = [head.base, head.enabled, head.disabled, head.replay!];
        const row = runs.map((run) => run.wrong[digit]!.toLocaleString("en-US"));
        expect(text).toContain(`${digit} ${row.join(" ")}`);
      }
    }
  });

  it("has the accuracies, losses, speeds, bytes and singular values", () => {
    const numbers = ["0.4870", "0.9530", "0.8430", "1.234", "0.238", "0.087", "0.145", "189 steps a second"];
    numbers.push("11,228,731 bytes", "28,108 bytes", "399 times as large", "3.37", "5.87", "8.37", "2 min 11 s");
    for (const number of numbers) expect(text).toContain(number);
  });

  it("draws size against mistakes where the base was made smaller", () => {
    const text = visibleText(renderReport(studyFixture()));
    expect(text).toContain("rank 64 3,996,750 35.6 % 0.9431");
    expect(text).toContain("int8 2,829,186 25.2 % 0.9530");
    expect(visibleText(renderReport(oneHead("relu")))).not.toContain("Size against mistakes");
  });

  it("says what the nine others paid, and what replay mends", () => {
    expect(text).toContain(
      "On digit 9, wrong answers fell from 107 to 11, 96 fewer. On the nine others together, they rose from 363 to 1,559, 1,196 more. Digit 7 paid most: from 51 to 677. Over all digits, accuracy went from 0.9530 to 0.8430.",
    );
    expect(text).toContain("When 50 % of each batch comes from all digits");
    expect(text).toContain(
      "wrong answers on digit 9 fell from 107 to 42, and on the nine others they rose from 363 to 393.",
    );
  });

  it("explains the dead units and the tuned one among them", () => {
    expect(text).toContain("The output units of the digits 2, 3, 4 and 5 are dead");
    expect(text).toContain("Digits with dead units account for 3,916 of the base’s 5,130 wrong answers.");
    expect(text).toContain("It bought nothing here: the wrong count of 2 stayed at 1,032.");
  });

  it("has the proof", () => {
    expect(text).toContain("All four checks held.");
    expect(text).toContain("largest difference 0 ✓ held");
    expect(text).toContain("largest difference of an output 3.8 × 10⁻⁶ ✓ held");
  });

  it("says where the data came from and what was set", () => {
    expect(text).toContain(
      "The images: MNIST, read from data/mnist. There are 60,000 training images and 10,000 test images",
    );
    for (const row of ["Rank 1", "Alpha 1", "Learning rate 0.001", "Seed 7", "relu/adapter-replay", "ab".repeat(32)]) {
      expect(text).toContain(row);
    }
  });
});

describe("renderReport, special runs", () => {
  it("shows a failed proof as failed", () => {
    const result = oneHead("linear");
    Object.assign(result.summary.heads.linear!, {
      frozenWeightsUnchanged: false,
      disabledMatchesBase: false,
      mergedMatchesEnabled: { maxAbsDiff: 0.5 },
    });
    const text = visibleText(renderReport(result));
    expect(text).toContain("3 of four checks failed");
    expect(text).toContain("the adapter did not give the base back");
    expect(text.match(/✗ failed/g)).toHaveLength(3);
  });

  it("counts a difference that is no number as failed", () => {
    const result = oneHead("linear");
    result.summary.heads.linear!.mergedMatchesEnabled.maxAbsDiff = Number.NaN;
    expect(visibleText(renderReport(result))).toContain("largest difference of an output not a number ✗ failed");
  });

  it("says that nothing can be learnt where all outputs are dead", () => {
    const text = visibleText(renderReport(allDead()));
    expect(text).toContain("All ten output units are dead");
    expect(text).toContain("The accuracy, 0.0980, is just the share of images that show a 0.");
    expect(text).toContain("Tuning was tried all the same, and no count moved.");
  });

  it("tells a silent digit from a dead one", () => {
    const result = oneHead("relu");
    const wrong = result.summary.heads.relu!.base.wrong;
    wrong[6] = 958;
    expect(visibleText(renderReport(result))).toContain(
      "The unit of 6 is not dead, yet the base reads none of its images rightly",
    );
  });

  it("uses the singular for one dead unit", () => {
    const result = oneHead("relu");
    result.summary.heads.relu!.base.deadOutputs.length = 1;
    const text = visibleText(renderReport(result));
    expect(text).toContain("Of its 10 output units, 1 is dead.");
    expect(text).toContain("The output unit of digit 2 is dead: its logit is never above zero");
  });

  it("speaks of no replay where there was none", () => {
    const text = visibleText(renderReport(withoutReplay(oneHead("linear"))));
    expect(text).toContain("(replay), was switched off in this run.");
    expect(text).toContain("Replay off");
    expect(text).not.toContain("adapter on, with replay");
  });

  it("leaves out the head that was not run", () => {
    const text = visibleText(renderReport(oneHead("linear")));
    expect(text).toContain("The network with a linear head");
    expect(text).not.toContain("ReLU head");
  });

  it("tells a stopped run", () => {
    const result = oneHead("relu");
    result.summary.complete = false;
    expect(visibleText(renderReport(result))).toContain("The run was stopped before its end.");
  });

  it("draws many singular values for a higher rank", () => {
    const result = oneHead("linear");
    const values = Array.from({ length: 40 }, (_, index) => 9 / (index + 1));
    result.details.linear!.singularValues = [{ module: "fc1", values }];
    const page = renderReport(result);
    const text = visibleText(page);
    expect(text).toContain("An update of rank 40 has 40 such values for each matrix. The 12 largest are drawn.");
    expect(text).toContain("fc1 9 4.5 3 2.25 1.8 1.5 1.29 1.13");
    const chart = page.slice(page.indexOf('id="linear-singular-title"')).split("</svg>")[0]!;
    expect(chart.match(/class="series-on"/g)).toHaveLength(12);
  });
});

describe("renderReport, hostile data", () => {
  it("shows any text as text", () => {
    const harmless = usedNames(renderReport(oneHead("relu")));
    const attacks = fc.constantFrom(
      "<script>alert(1)</script>",
      "</title></style><script>x</script>",
      `" onload="x" style="color:red`,
      "</svg><img src=x onerror=y>",
      "<!-- ",
      "]]>",
      "&lt;b&gt;",
    );
    fc.assert(
      fc.property(fc.oneof(attacks, fc.string({ unit: "binary" })), (text) => {
        const result = oneHead("relu");
        result.summary.data.source = text;
        result.summary.data.sha256 = { [text]: text };
        result.summary.started = text;
        result.summary.heads.relu!.layers[0]!.name = text;
        result.summary.heads.relu!.files.base = text;
        result.details.relu!.singularValues[0]!.module = text;
        const page = renderReport(result);
        expect(checkMarkup(page)).toEqual([]);
        expect([...usedNames(page)].filter((name) => !harmless.has(name))).toEqual([]);
      }),
      { numRuns: 40 },
    );
  });
});
