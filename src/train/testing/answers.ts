// PyTorch's answers for a small exported model: a safetensors file with inputs, labels, loss, logits, and for each adapted module the
// factors (`lora.<module>.A|B`) and their gradients (`grad.<module>.A|B`). The scripts in scripts/fixtures write them.
import { readFileSync } from "node:fs";
import { readSafetensors } from "../../adapter/safetensors.ts";
import type { AdaptedModel } from "../../lora/adapted.ts";
import type { Model } from "../../onnx/model.ts";
import { readModel } from "../../onnx/read.ts";
import type { Tensor } from "../../tensor.ts";

const fixtures = new URL("../../../test/fixtures/", import.meta.url);

/** A model of test/fixtures. */
export function fixtureModel(file: string): Model {
  return readModel(new Uint8Array(readFileSync(new URL(file, fixtures))), file);
}

/** The tensors of a file of test/fixtures. */
export function fixtureAnswers(file: string): ReadonlyMap<string, Tensor> {
  return readSafetensors(new Uint8Array(readFileSync(new URL(file, fixtures))), file).tensors;
}

/** The stored `lora` factors or their gradients, by the keys that the adapted model gives them. */
export function byKey(
  answers: ReadonlyMap<string, Tensor>,
  adapted: AdaptedModel,
  prefix: "lora" | "grad",
): Map<string, Tensor> {
  return new Map(
    adapted.sites.flatMap(({ site: { modulePath }, a, b }) => {
      // A wrapper that was exported adds a scope in front of the module's own path.
      const parts = modulePath.split(".");
      const path = parts
        .map((_, from) => parts.slice(from).join("."))
        .find((tail) => answers.has(`${prefix}.${tail}.A`));
      return [
        [a, answers.get(`${prefix}.${path}.A`)!],
        [b, answers.get(`${prefix}.${path}.B`)!],
      ];
    }),
  );
}

/** The largest |a - b| as a share of 1e-5 + 1e-4 |b|, what the golden cases allow: up to 1 agrees. */
export function worstShare(actual: Tensor | undefined, expected: Tensor): number {
  if (actual?.data.length !== expected.data.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (const [index, value] of expected.data.entries()) {
    const [a, b] = [Number(actual.data[index]), Number(value)];
    const share = Math.abs(a - b) / (1e-5 + 1e-4 * Math.abs(b));
    worst = Number.isNaN(share) ? Number.POSITIVE_INFINITY : Math.max(worst, share);
  }
  return worst;
}
