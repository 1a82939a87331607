// What Node.js has beyond index.ts: files, and the study.

export { type Dataset, type DatasetOptions, type NamedRow, openDataset, type SourceOptions } from "./data/dataset.ts";
export type { InputShape, Normalization } from "./data/fields.ts";
export type { LabelOptions } from "./data/labels.ts";
export { mix, type Replayed } from "./data/mix.ts";
export { type DataSource, loadMnist, type Mnist, type MnistOptions } from "./data/mnist.ts";
export type { PositionedSourceBatch, RowSource, Skipped, SourcePosition } from "./data/source.ts";
export type { TextOptions } from "./data/text.ts";
export { loadTokenizer, type TextTokenizer } from "./data/tokenizer.ts";
export * from "./index.ts";
export {
  type AdapterHome,
  adapterHome,
  type LoadAdapterOptions,
  loadAdapter,
  saveAdapter,
} from "./runs/adapter-files.ts";
export { loadCheckpoint, saveCheckpoint } from "./runs/checkpoints.ts";
export { loadModel } from "./runs/model-file.ts";
export { renderComparison } from "./runs/report/compare-report.ts";
export { renderRunReport } from "./runs/report/run-report.ts";
export { inFolder, type RowFile, type RowFolder } from "./runs/row-file.ts";
export {
  type ChangedRecord,
  type EvaluationPoint,
  findRuns,
  type MisreadRecord,
  type ResultRecord,
  type RunRecord,
  readRun,
  type StepPoint,
} from "./runs/run-record.ts";
export { type SaveOptions, saveModel } from "./runs/save-model.ts";
export { type EventLog, type EventLogOptions, openEvents, type Scalars } from "./runs/tensorboard.ts";
export type { LogLevel, ServeOptions } from "./serve/options.ts";
export { type RunningServer, type ServeContext, startServer } from "./serve/server.ts";
export { runDomains } from "./study/domains/domains.ts";
export { type StudyOptions, studyDefaults } from "./study/options.ts";
export type { CompressionPoint, Evaluation, Head, HeadSummary, StudyResult, StudySummary } from "./study/result.ts";
export { runStudy, type StudyEnvironment, type StudyRun } from "./study/study.ts";
export type { Voice } from "./study/voice.ts";
export { type FleetSource, readSweepConfig, type Search, type SweepConfig } from "./sweep/config.ts";
export type { SweepSummary } from "./sweep/finish.ts";
export type { Outcome } from "./sweep/outcome.ts";
export type { Standing } from "./sweep/standings.ts";
export { resumeSweep, runSweep, type SweepContext, type SweepResult } from "./sweep/sweep.ts";
export { type DryRun, dryRun } from "./tune/dry-run.ts";
export {
  type AdapterEvaluation,
  type ChangedExample,
  type Changes,
  type Evaluated,
  type EvaluateOptions,
  evaluateAdapters,
  type MisreadExample,
  type NamedAdapter,
} from "./tune/evaluate.ts";
export { findRate } from "./tune/find-rate.ts";
export type { RunOptions as TuneOptions, Verb } from "./tune/option-table.ts";
export { type Prediction, type PredictOptions, predict } from "./tune/predict.ts";
export type { RunResult, RunSummary } from "./tune/result.ts";
export { type RunContext, runPretrain, runTune } from "./tune/run.ts";
export { type EvalResult, type EvalSummary, runEval } from "./tune/run-eval.ts";
export { type PredictContext, runPredict } from "./tune/run-predict.ts";
export { parseConfigFile, resolveOptions } from "./tune/settings.ts";
export type { ClassCount, Tallied, TaskKind } from "./tune/tally.ts";
export { textOf } from "./tune/text-stream.ts";
