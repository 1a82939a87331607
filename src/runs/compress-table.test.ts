import { expect, it } from "vitest";
import { formatCompression, formatSteps } from "./compress-table.ts";

it("tells what became of each layer, and why some are whole", () => {
  const text = formatCompression({
    layers: [
      {
        modulePath: "fc1",
        inFeatures: 1000,
        outFeatures: 2000,
        rank: 64,
        quantized: null,
        reason: null,
        parameters: { before: 2_000_000, after: 192_000 },
        bytes: { before: 8_000_000, after: 768_000 },
        operations: { before: 4_000_000, after: 384_000 },
        relativeError: 0.8125,
        dataError: null,
      },
      {
        modulePath: "fc2",
        inFeatures: 10,
        outFeatures: 10,
        rank: null,
        quantized: null,
        reason: "rank 64 would not shrink it: 10 x 10 is smaller from rank 4 down",
        parameters: { before: 100, after: 100 },
        bytes: { before: 400, after: 400 },
        operations: { before: 200, after: 200 },
        relativeError: 0,
        dataError: null,
      },
    ],
    parameters: { before: 2_000_100, after: 192_100 },
    bytes: { before: 8_000_400, after: 768_400 },
  });
  expect(text.split("\n")).toEqual([
    "Layer      In -> out     Rank  Bits            Parameters                Bytes            Operations    Error",
    "-------------------------------------------------------------------------------------------------------------",
    "fc1        1000 -> 2000    64  -     2,000,000 -> 192,000  7.63 MiB -> 750 KiB  4,000,000 -> 384,000  81.25 %",
    "fc2        10 -> 10         -  -                      100                400 B                   200   0.00 %",
    "=============================================================================================================",
    "the model                            2,000,100 -> 192,100  7.63 MiB -> 750 KiB",
    "Weights: 9.6 % of the bytes.",
    "",
    "fc2: rank 64 would not shrink it: 10 x 10 is smaller from rank 4 down",
  ]);
});

it("tells what each step came to", () => {
  const steps = [
    { name: "original", bytes: 11_228_640, measure: { loss: 0.214, accuracy: 0.9412 } },
    { name: "factorized", bytes: 3_996_750, measure: { loss: 0.2133, accuracy: 0.9422 } },
  ];
  expect(formatSteps(steps, false).split("\n")).toEqual([
    "Model       File bytes  Of the original    Loss  Accuracy",
    "---------------------------------------------------------",
    "original    11,228,640          100.0 %  0.2140   94.12 %",
    "factorized   3,996,750           35.6 %  0.2133   94.22 %",
  ]);
  expect(formatSteps(steps, true)).toContain("Agreement with the original");
  expect(formatSteps([{ name: "original", bytes: 10, measure: null }], null).split("\n")[0]).toBe(
    "Model     File bytes  Of the original",
  );
});
