// What runs everywhere: Node.js and browsers. Files come in and go out as bytes.
export type { RankChoice } from "./adapter/checks.ts";
export { type CombineMethod, type CombineOptions, combine, type MaskRequest, subtract } from "./adapter/combine.ts";
export {
  type Comparison,
  compare,
  type ModuleComparison,
  type ModuleSpectrum,
  type Overlap,
  spectrum,
} from "./adapter/compare.ts";
export { type Extracted, type ExtractOptions, extract, type OtherDifference } from "./adapter/extract.ts";
export { type MergeOptions, merge } from "./adapter/merge.ts";
export { readAdapter, writeAdapter } from "./adapter/peft.ts";
export type { MajoritySignMethod } from "./adapter/prune.ts";
export { type ModuleError, type RescaleOptions, type Resized, rescale, resize } from "./adapter/resize.ts";
export { readSafetensors, writeSafetensors } from "./adapter/safetensors.ts";
export { unmerge } from "./adapter/unmerge.ts";
export { type ErrorCode, LowrankError } from "./errors.ts";
export { AdaptedModel, type AdaptedSite, type Parameter } from "./lora/adapted.ts";
export { attachLora } from "./lora/attach.ts";
export type { Adapter, AdapterConfig, LoraConfig } from "./lora/config.ts";
export { attachAll, withWeights } from "./lora/full.ts";
export { type InitMethod, type InitOptions, initAdapter } from "./lora/init.ts";
export {
  createModel,
  float,
  type GraphBuilder,
  graphBuilder,
  type OpOptions,
  type PlainAttributes,
  type Value,
} from "./onnx/builder.ts";
export type { ElementType } from "./onnx/elements.ts";
export type { ExternalReader } from "./onnx/external.ts";
export type { Attribute, Dim, Graph, Model, Node, StoredTensor, ValueInfo } from "./onnx/model.ts";
export { type ReadOptions, readModel } from "./onnx/read.ts";
export { type Site, sites } from "./onnx/sites.ts";
export { type ModelSummary, type SummaryRow, summary } from "./onnx/summary.ts";
export { writeModel } from "./onnx/write.ts";
export { createRandom, type Random, type RandomState } from "./random.ts";
export type { Device, SessionOptions } from "./runtime/session.ts";
export { elementCount, type Tensor, type TensorArrays, type TensorType, tensor, zeros } from "./tensor.ts";
export {
  type Gradcheck,
  type GradcheckOptions,
  type GradcheckRow,
  gradcheck,
} from "./train/gradcheck.ts";
export { type AdapterSession, createSession } from "./train/infer.ts";
export {
  binaryCrossEntropy,
  type ContrastiveOptions,
  type CrossEntropyOptions,
  type CustomLoss,
  causalLm,
  contrastive,
  cosineEmbedding,
  crossEntropy,
  customLoss,
  type DistillationOptions,
  distillation,
  huber,
  type LabelInfo,
  type Loss,
  type LossNodes,
  type LossOptions,
  meanAbsoluteError,
  meanSquaredError,
  type PairOptions,
  smoothL1,
} from "./train/losses.ts";
export {
  type AdamOptions,
  adam,
  adamw,
  type NamedArrays,
  type Optimizer,
  type OptimizerState,
} from "./train/optimizers.ts";
export { randomInputs } from "./train/random-inputs.ts";
export { constant, type Schedule } from "./train/schedules.ts";
export type { Batch } from "./train/step.ts";
export {
  type GradientStatus,
  type OperatorCount,
  type SiteSummary,
  type Support,
  support,
  type ValueSummary,
  type Verdict,
} from "./train/support.ts";
export { type Batches, type History, type StepProgress, type TrainOptions, train, trainAll } from "./train/train.ts";
export { type ValueAndGrad, valueAndGrad } from "./train/value-and-grad.ts";
