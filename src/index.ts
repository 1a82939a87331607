// What runs everywhere: Node.js and browsers. Files come in and go out as bytes.
export { type AdapterInputOptions, withAdapterInputs } from "./adapter/adapter-inputs.ts";
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
export { type ReadMlxOptions, readMlxAdapter, writeMlxAdapter } from "./adapter/mlx.ts";
export {
  adapterParameters,
  type OnnxAdapterOptions,
  type ParameterType,
  type ReadOnnxAdapterOptions,
  readOnnxAdapter,
  type WriteOnnxAdapterOptions,
  writeOnnxAdapter,
} from "./adapter/onnx-adapter.ts";
export { readAdapter, readAdapters, writeAdapter, writeAdapters } from "./adapter/peft.ts";
export type { MajoritySignMethod } from "./adapter/prune.ts";
export { type ModuleError, type RescaleOptions, type Resized, rescale, resize } from "./adapter/resize.ts";
export { readSafetensors, writeSafetensors } from "./adapter/safetensors.ts";
export { type QuantizedAdapter, quantizeAdapter } from "./adapter/storage.ts";
export { unmerge } from "./adapter/unmerge.ts";
export {
  type Change,
  type Compressed,
  type CompressedLayer,
  type CompressWithOptions,
  compress,
  compressWith,
  type Variant,
} from "./compress/compress.ts";
export type { Samples } from "./compress/moments.ts";
export type { CompressOptions, QuantizedForm } from "./compress/options.ts";
export { type Recovered, type RecoverOptions, type RecoveryData, recover } from "./compress/recover.ts";
export {
  corruptionNames,
  type Images,
  type ImageTransform,
  parseTransform,
  transformImages,
  transformNames,
} from "./data/transforms/transforms.ts";
export { type ErrorCode, LowrankError } from "./errors.ts";
export { AdaptedModel, type AdaptedSite, type Parameter } from "./lora/adapted.ts";
export { attachLora } from "./lora/attach.ts";
export type { Adapter, AdapterConfig, LoraConfig, StorageType } from "./lora/config.ts";
export { attachAll, withWeights } from "./lora/full.ts";
export { type HeadOptions, labelsOfModel, type Pooling, withHead } from "./lora/head.ts";
export { type InitMethod, type InitOptions, initAdapter } from "./lora/init.ts";
export { plainAdapter } from "./lora/residual.ts";
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
export type { ExternalReader, LateBytes } from "./onnx/external.ts";
export type { Attribute, Dim, Graph, Model, Node, StoredTensor, ValueInfo } from "./onnx/model.ts";
export { type ReadOptions, readModel } from "./onnx/read.ts";
export { type Call, type Part, type QuantizedWeight, type Site, type SiteKind, sites } from "./onnx/sites.ts";
export { type ModelSummary, type SummaryRow, summary } from "./onnx/summary.ts";
export { writeModel } from "./onnx/write.ts";
export { createRandom, type Random, type RandomState } from "./random.ts";
export {
  type ChosenDevice,
  checkDevice,
  type Device,
  type DeviceChoice,
  type SessionOptions,
} from "./runtime/session.ts";
export { elementCount, type Tensor, type TensorArrays, type TensorType, tensor, zeros } from "./tensor.ts";
export type { EmaOptions } from "./train/averaging.ts";
export { type Checkpoint, type CheckpointState, readCheckpoint, writeCheckpoint } from "./train/checkpoint.ts";
export {
  type BatchesOfOptions,
  batchesOf,
  type ColumnSource,
  type DataPosition,
  type DataSource as BatchSource,
  type JsonValue,
  type PositionedBatch,
  startPosition,
  withLabels,
} from "./train/data-source.ts";
export { type EvaOptions, initEva } from "./train/eva.ts";
export type {
  EarlyStopping,
  EvaluationData,
  EvaluationOptions,
  EvaluationRecord,
  Every,
  StoppingState,
  Watched,
} from "./train/evaluation.ts";
export { type FindOptions, findLearningRate, type LearningRateCurve } from "./train/find-learning-rate.ts";
export { type Decoder, type GenerateOptions, openDecoder } from "./train/generate.ts";
export {
  type Gradcheck,
  type GradcheckOptions,
  type GradcheckRow,
  gradcheck,
} from "./train/gradcheck.ts";
export { type AdapterSession, createSession, type RunOptions } from "./train/infer.ts";
export type { AdapterChoice, WeightedAdapter } from "./train/loaded-adapters.ts";
export { initLoftq, type LoftqOptions } from "./train/loftq.ts";
export type { LoraFaOptions } from "./train/lora-fa.ts";
export { type LoraPlusOptions, loraPlus } from "./train/lora-plus.ts";
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
export { type AccuracyOptions, accuracy, agreement, type Counted, type Metric } from "./train/metrics.ts";
export {
  type AboutParameter,
  type AdafactorOptions,
  type AdamOptions,
  adafactor,
  adam,
  adamw,
  type LionOptions,
  lion,
  type NamedArrays,
  type Optimizer,
  type OptimizerState,
  type SgdOptions,
  sgd,
} from "./train/optimizers.ts";
export type { PrefixCacheOptions, PrefixPlan } from "./train/prefix.ts";
export { randomInputs } from "./train/random-inputs.ts";
export { inMemory, type RowStore, type StorePlace } from "./train/row-store.ts";
export {
  constant,
  cosine,
  linear,
  type MetricSchedule,
  type OneCycleOptions,
  oneCycle,
  type PlateauOptions,
  type PlateauState,
  plateau,
  type Schedule,
  sequence,
  warmup,
} from "./train/schedules.ts";
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
export { type StepTraffic, stepTraffic } from "./train/traffic.ts";
export {
  type Batches,
  type BestOf,
  type EvaluationProgress,
  type History,
  type StepProgress,
  type Trained,
  type TrainedWeights,
  type TrainingData,
  type TrainOptions,
  train,
  trainAll,
} from "./train/train.ts";
export { type ValueAndGrad, valueAndGrad } from "./train/value-and-grad.ts";
export { type MeasuredModel, withLoss } from "./train/with-loss.ts";
