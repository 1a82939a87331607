// All losses, by family.
export { type CrossEntropyOptions, causalLm, crossEntropy } from "./losses/cross-entropy.ts";
export { type CustomLoss, customLoss } from "./losses/custom.ts";
export { type DistillationOptions, distillation } from "./losses/distillation.ts";
export {
  binaryCrossEntropy,
  huber,
  type LossOptions,
  meanAbsoluteError,
  meanSquaredError,
  smoothL1,
} from "./losses/elementwise.ts";
export { type ContrastiveOptions, contrastive, cosineEmbedding, type PairOptions } from "./losses/embedding.ts";
export { checkClasses, type LabelInfo, type Loss, type LossNodes, labelsOf, weightOf } from "./losses/loss.ts";
