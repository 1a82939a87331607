// A study result as it could come out of a real run, for tests and for looking at the page: a ReLU head with four dead
// output units (accuracy 0.487) and a linear head (accuracy 0.953). Everything is computed from fixed numbers.
import type {
  CompressionPoint,
  Head,
  HeadDetail,
  HeadSummary,
  LayerRow,
  LossPoint,
  Misread,
  StudyResult,
} from "../../result.ts";

/** Test images of each digit, as MNIST has them. */
const IMAGES = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009];

const WRONG = {
  relu: {
    base: [20, 25, 1032, 1010, 982, 892, 310, 372, 240, 247],
    enabled: [20, 27, 1032, 1010, 982, 892, 320, 380, 241, 247],
    replay: [19, 25, 1032, 1010, 982, 892, 311, 369, 240, 246],
  },
  linear: {
    base: [21, 19, 54, 47, 40, 61, 33, 51, 37, 107],
    enabled: [24, 28, 96, 140, 390, 121, 35, 677, 48, 11],
    replay: [20, 20, 52, 49, 55, 60, 33, 66, 38, 42],
  },
} as const;

/** Both heads with replay; take from it what a test does not want. */
export function studyFixture(): StudyResult {
  return {
    summary: {
      version: 1,
      complete: true,
      started: "2025-11-23T20:36:11.000Z",
      data: {
        source: "MNIST, read from data/mnist",
        train: 60000,
        test: 10000,
        sha256: { "train-images-idx3-ubyte": "ab".repeat(32), "t10k-images-idx3-ubyte": "cd".repeat(32) },
      },
      settings: {
        head: "both",
        rank: 1,
        alpha: 1,
        learningRate: 0.001,
        batch: 10,
        epochs: 1,
        steps: 100,
        digit: null,
        replay: 0.5,
        seed: 7,
        limit: null,
        device: "cpu",
        threads: 2,
      },
      heads: { relu: headSummary("relu"), linear: headSummary("linear") },
      seconds: 131.4,
    },
    details: { relu: headDetail("relu"), linear: headDetail("linear") },
  };
}

/** The same with one head only. */
export function oneHead(head: Head): StudyResult {
  const { summary, details } = studyFixture();
  return {
    summary: { ...summary, heads: { [head]: summary.heads[head]! } },
    details: { [head]: details[head]! },
  };
}

/** The same with replay switched off. */
export function withoutReplay(result: StudyResult): StudyResult {
  for (const head of ["relu", "linear"] as const) {
    const summary = result.summary.heads[head];
    const detail = result.details[head];
    if (summary) Object.assign(summary, { replay: null, files: { ...summary.files, replayAdapter: null } });
    if (!detail) continue;
    detail.lossCurves.replay = null;
    detail.confusion.replay = null;
    detail.misread = detail.misread.map((one) => ({ ...one, replay: null }));
  }
  result.summary.settings = { ...result.summary.settings, replay: 0 };
  return result;
}

/** A ReLU head that learnt nothing: all ten units dead, every image read as 0. */
export function allDead(): StudyResult {
  const result = oneHead("relu");
  const wrong = IMAGES.map((images, digit) => (digit === 0 ? 0 : images));
  const accuracy = 0.098;
  const summary = result.summary.heads.relu!;
  const same = { accuracy, wrong };
  Object.assign(summary, { digit: 1, disabled: same });
  summary.base = { ...summary.base, ...same, deadOutputs: wrong.map((count, digit) => dead(digit, count)) };
  summary.enabled = { ...summary.enabled, ...same };
  summary.replay = { ...summary.replay!, ...same };
  const cells = IMAGES.map((images) => [images, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  result.details.relu!.confusion = { base: cells, enabled: cells, replay: cells };
  return result;
}

function dead(digit: number, wrong: number): { digit: number; wrong: number; images: number } {
  return { digit, wrong, images: IMAGES[digit]! };
}

function headSummary(head: Head): HeadSummary {
  const wrong = WRONG[head];
  const base = evaluation(wrong.base);
  return {
    parameters: { base: 2_807_010, lora: 6_794, total: 2_813_804, percent: (100 * 6_794) / 2_807_010 },
    layers: layers(head),
    base: {
      ...base,
      meanLoss: head === "relu" ? 1.234 : 0.238,
      stepsPerSecond: 189.4,
      steps: 6000,
      deadOutputs: head === "relu" ? [2, 3, 4, 5].map((digit) => dead(digit, wrong.base[digit]!)) : [],
    },
    digit: head === "relu" ? 2 : 9,
    digitChosen: "most wrong",
    enabled: { ...evaluation(wrong.enabled), meanLoss: 0.087, stepsPerSecond: 961.2, steps: 100 },
    disabled: base,
    disabledMatchesBase: true,
    replay: { ...evaluation(wrong.replay), meanLoss: 0.145, fraction: 0.5 },
    frozenWeightsUnchanged: true,
    effectiveWeightMatches: { maxAbsDiff: 0 },
    mergedMatchesEnabled: { maxAbsDiff: 3.81e-6 },
    compression: head === "relu" ? null : compressionPoints(),
    files: {
      base: `${head}/base.onnx`,
      adapter: `${head}/adapter`,
      replayAdapter: `${head}/adapter-replay`,
      merged: `${head}/merged.onnx`,
    },
    seconds: 62.3,
  };
}

function compressionPoints(): CompressionPoint[] {
  const point = (rank: number | null, weighedWithData: boolean, bytes: number, accuracy: number): CompressionPoint => ({
    rank,
    weighedWithData,
    quantized: null,
    bytes,
    accuracy,
  });
  return [
    point(64, false, 3_996_750, 0.9431),
    point(64, true, 3_996_750, 0.9529),
    { ...point(null, false, 2_829_186, 0.953), quantized: "int8" },
  ];
}

function headDetail(head: Head): HeadDetail {
  const wrong = WRONG[head];
  return {
    lossCurves: {
      base: curve(600, 10, 2.3, head === "relu" ? 1.1 : 0.14),
      tuned: curve(100, 1, head === "relu" ? 2.32 : 0.8, head === "relu" ? 2.3 : 0.05),
      replay: curve(100, 1, 0.5, 0.12),
    },
    confusion: {
      base: confusion(head, wrong.base),
      enabled: confusion(head, wrong.enabled),
      replay: confusion(head, wrong.replay),
    },
    misread: [2, 3, 4, 5, 6, 7, 8, 9, 2, 7].map(misread),
    singularValues: ["fc1", "fc2", "fc3"].map((module, index) => ({ module, values: [3.37 + index * 2.5] })),
    bytes: { base: 11_228_731, adapter: 28_108 },
  };
}

function layers(head: Head): LayerRow[] {
  const rows: [string, number, number, number][] = [
    ["Linear-1", 1000, 785_000, 1_784],
    ["ReLU-2", 1000, 0, 0],
    ["Linear-3", 2000, 2_002_000, 3_000],
    ["ReLU-4", 2000, 0, 0],
    ["Linear-5", 10, 20_010, 2_010],
    ["ReLU-6", 10, 0, 0],
  ];
  return rows
    .slice(0, head === "relu" ? 6 : 5)
    .map(([name, features, parameters, lora]) => ({ name, outputShape: [-1, features], parameters, lora }));
}

function evaluation(wrong: readonly number[]): { accuracy: number; wrong: number[] } {
  const mistakes = wrong.reduce((sum, value) => sum + value, 0);
  return { accuracy: (10_000 - mistakes) / 10_000, wrong: [...wrong] };
}

/** Exponential decay with a ripple, as running means of a loss look. */
function curve(length: number, stride: number, from: number, to: number): LossPoint[] {
  return Array.from({ length }, (_, index) => ({
    step: (index + 1) * stride,
    loss: to + (from - to) * Math.exp(-index / (length / 8)) + 0.02 * to * Math.sin(index * 1.7),
  }));
}

/**
 * Mistakes go to two other digits, two thirds and one third; rows sum to the images of the digit. With the ReLU head
 * they go to digits whose units are alive, the ties at zero to 0.
 */
function confusion(head: Head, wrong: readonly number[]): number[][] {
  return IMAGES.map((images, label) => {
    const row = new Array<number>(10).fill(0);
    const mistakes = wrong[label]!;
    const [most, rest] =
      head === "relu" ? [label === 0 ? 6 : 0, label === 7 ? 1 : 7] : [(label + 7) % 10, (label + 4) % 10];
    row[label] = images - mistakes;
    row[most!] = Math.ceil((2 * mistakes) / 3);
    row[rest!] = mistakes - Math.ceil((2 * mistakes) / 3);
    return row;
  });
}

/** A ring with a stroke through it: enough to see that the picture stands upright. */
function misread(label: number, index: number): Misread {
  const pixels = new Uint8Array(28 * 28);
  for (let y = 0; y < 28; y++) {
    for (let x = 0; x < 28; x++) {
      const ring = Math.abs(Math.hypot(x - 13.5, y - 10) - 6);
      const stroke = Math.abs(x - 13.5 - (label - 5)) + (y > 10 && y < 25 ? 0 : 9);
      pixels[y * 28 + x] = Math.round(255 * Math.max(0, 1 - Math.min(ring, stroke) / 2));
    }
  }
  return { index: 115 + index * 977, pixels, label, base: 0, enabled: index % 3 === 0 ? label : 1, replay: 1 };
}
