// Rows of numbers and images as batches: each input of the model from its columns, into arrays that are made twice and
// filled in turn.
import { LowrankError, throwFaults } from "../errors.ts";
import {
  createField,
  type Field,
  fieldTarget,
  fieldTensor,
  type InputShape,
  matchColumns,
  type Normalization,
  type Numbers,
} from "./fields.ts";
import type { RowTransform } from "./image-transform.ts";
import { type LabelOptions, type LabelWriter, labelNames, labelWriter } from "./labels.ts";
import type { Assembled, Assembler, Encoder, SourceBatch } from "./source.ts";
import type { Column, Reads, Row } from "./table.ts";

export interface ExampleOptions {
  /** The model's inputs. */
  readonly inputs: readonly InputShape[];
  /** Which columns feed an input, where names differ: `{ x: "image", mask: "m*", labels: "digit" }`; `a,b,c` names several. */
  readonly map?: Readonly<Record<string, string>>;
  /** How floating-point inputs of more than one value are normalized. */
  readonly normalization?: Normalization;
  readonly labels?: LabelOptions;
}

/** Decodes the images of some rows: paths become bytes in the model's layout. */
export type Prepare = (rows: readonly Row[]) => Promise<readonly Row[]>;

/**
 * Plans how rows become batches.
 *
 * @throws LowrankError "data" with everything that does not fit between columns and inputs.
 */
export function exampleEncoder(
  columns: readonly Column[],
  sample: Row,
  options: ExampleOptions & {
    readonly tableLabels: readonly string[] | null;
    readonly prepare: Prepare | null;
    /** What happens to the images of a batch, once they are decoded. */
    readonly change: RowTransform | null;
  },
): Encoder {
  const faults: string[] = [];
  const label = labelColumn(columns, options.map, faults);
  const fields = planFields(columns, sample, options, label, faults);
  const labels = labelWriter(label, columns, sample, { ...options.labels, tableNames: options.tableLabels });
  if (typeof labels === "string") faults.push(labels);
  throwFaults("data", "data: it does not fit the model's inputs", faults);
  const reads = { numbers: fields.flatMap((field) => field.columns), cells: label === null ? [] : [label] };
  return encoder(fields, labels as LabelWriter, reads, options);
}

/** Where the labels are; null when there are none. */
export function labelColumn(
  columns: readonly Column[],
  map: Readonly<Record<string, string>> | undefined,
  faults: string[],
): number | null {
  const names = columns.map(({ name }) => name);
  const mapped = map?.labels;
  const candidates = mapped === undefined ? labelNames : [mapped];
  const found = candidates.map((name) => names.indexOf(name)).find((index) => index >= 0);
  if (found === undefined && mapped !== undefined) faults.push(`labels: there is no column ${mapped}`);
  return found ?? null;
}

function planFields(
  columns: readonly Column[],
  sample: Row,
  { inputs, map = {}, normalization = {} }: ExampleOptions,
  label: number | null,
  faults: string[],
): Field[] {
  for (const name of Object.keys(map)) {
    if (name !== "labels" && !inputs.some((input) => input.name === name))
      faults.push(`map: the model has no input ${name}`);
  }
  const taken = new Set(label === null ? [] : [label]);
  return inputs.flatMap((input) => {
    const used = matchColumns(input, columns, taken, { mapped: map[input.name], only: inputs.length === 1 });
    const isVector = input.dims.length > 1 && (input.type === "float32" || input.type === "float64");
    const plan = { input, columns: used as readonly number[], normalization: isVector ? normalization : null };
    const field = typeof used === "string" ? used : createField(plan, columns, sample);
    if (typeof field !== "string") return [field];
    faults.push(`${input.name}: ${field}`);
    return [];
  });
}

/** What is done with rows before they are written into a batch. */
interface Stages {
  readonly prepare: Prepare | null;
  readonly change: RowTransform | null;
}

function encoder(fields: readonly Field[], labels: LabelWriter, reads: Reads, stages: Stages): Encoder {
  const { prepare, change } = stages;
  const scratch = fields.map((field) => fieldTarget(field, 1));
  const checkCells = (row: Row): string | null => {
    for (const [index, field] of fields.entries()) {
      const fault = field.write(row, scratch[index]!, 0);
      if (fault !== null) return fault;
    }
    return labels.check(row);
  };
  return {
    padding: {},
    groupBatches: 1,
    regular: true,
    fixed: true,
    ...(prepare === null && change === null && { reads }),
    labels: labels.names,
    async check(row) {
      if (prepare === null) return checkCells(row);
      try {
        return checkCells((await prepare([row]))[0]!);
      } catch (error) {
        if (error instanceof LowrankError) return error.message;
        throw error;
      }
    },
    begin: (batchSize) => assembler(fields, labels, stages, batchSize),
  };
}

function assembler(
  fields: readonly Field[],
  labels: LabelWriter,
  { prepare, change }: Stages,
  batchSize: number,
): Assembler {
  const room = (): { inputs: Numbers[]; labels: Numbers } => ({
    inputs: fields.map((field) => fieldTarget(field, batchSize)),
    labels: labels.target(batchSize),
  });
  const sets = [room(), room()] as const;
  let turn = 0;
  const fill = (rows: readonly Row[], targets: readonly Numbers[]): SourceBatch["inputs"] => {
    const inputs = fields.map((field, index) => {
      const target = targets[index]!;
      for (let at = 0; at < rows.length; at++) {
        const fault = field.write(rows[at]!, target, at);
        if (fault !== null) throwFaults("data", "data: a row was changed after it was checked", [fault]);
      }
      return [field.name, fieldTensor(field, target, rows.length)] as const;
    });
    return Object.fromEntries(inputs);
  };
  const make = async (given: readonly Row[], numbers: readonly number[]): Promise<SourceBatch> => {
    const changed = (rows: readonly Row[]): readonly Row[] => (change === null ? rows : change(rows, numbers));
    const set = sets[turn++ % 2 === 0 ? 0 : 1];
    for (let at = 0; at < given.length; at++) labels.write(given[at]!, set.labels, at);
    const own = labels.tensor(set.labels, given.length);
    if (prepare !== null) return { inputs: fill(changed(await prepare(given)), set.inputs), labels: own };
    let inputs: SourceBatch["inputs"] | undefined;
    return {
      // Only when they are asked for: behind a frozen prefix (train/prefix.ts) they are not.
      get inputs(): SourceBatch["inputs"] {
        inputs ??= fill(changed(given), set.inputs);
        return inputs;
      },
      labels: own,
    };
  };
  return (rows, numbers) => {
    const batch: Assembled = { examples: rows.length, rows: numbers, make: () => make(rows, numbers) };
    return Promise.resolve([batch]);
  };
}
