// Data sets: files of any known format, opened and checked, narrowed by filters and splits, and made into batches.
import { LowrankError } from "../errors.ts";
import { type ExampleOptions, exampleEncoder, type Prepare } from "./examples.ts";
import { parseFilter } from "./filter.ts";
import { type FormatName, openTable } from "./formats.ts";
import { findImages, type ImageColumn, type RowTransform, rowTransform } from "./image-transform.ts";
import { imageDecoder, imageDims } from "./images.ts";
import { allRows, firstRows, narrow, rowHasher, rowsOf, type Selection, without } from "./selection.ts";
import {
  type BatchingOptions,
  checkRows,
  createSource,
  type Encoder,
  type RowSource,
  type Skipped,
  throwFaulty,
} from "./source.ts";
import { type Cell, type Column, joinTables, type Row, type Table } from "./table.ts";
import { type TextOptions, textEncoder } from "./text.ts";
import type { ImageTransform } from "./transforms/transforms.ts";

export interface DatasetOptions {
  /** Default: by the file's name and first bytes. */
  readonly format?: FormatName;
  /** What to do with rows that cannot be read or used; default "stop". */
  readonly onBadRow?: "stop" | "skip";
  /** CSV: whether the first record names the columns; default: when any of its cells is no number. */
  readonly header?: boolean;
  /**
   * What of each file is kept in memory: of CSV and JSON Lines the numbers that a model reads, of IDX and safetensors the file,
   * where they take up to this many bytes; default 256 MiB. Others are read anew in each pass, in blocks. Rows are the same
   * ones then, but in an order of another kind where the file would have been kept whole. An IDX file that is packed is unpacked
   * whole.
   */
  readonly memoryBytes?: number;
}

/** How rows become batches. */
export type SourceOptions = ExampleOptions &
  BatchingOptions & {
    /** Rows are texts, to be tokenized. */
    readonly text?: TextOptions;
    /** Makes images of another domain of all images in the data (`parseTransform`); `seed` is that of the order. */
    readonly transform?: ImageTransform;
  };

/** A row with its cells by name. */
export type NamedRow = Readonly<Record<string, Cell>>;

export interface Dataset {
  readonly paths: readonly string[];
  readonly format: string;
  readonly columns: readonly Column[];
  /** Rows that are chosen and readable. */
  readonly length: number;
  /** Class names that the format gives (a folder's subfolders, in order), else null: a source knows those of text labels. */
  readonly labels: readonly string[] | null;
  /** Rows that could not be read and were left out. */
  readonly skipped: Skipped;
  /** A line for people: format, rows, columns. */
  describe(): string;
  /** File and line (or row) of a row, by its number in all files: `train.jsonl:12`; of an image, its file. */
  where(row: number): Promise<string>;
  /** The chosen rows in their order. */
  rows(): AsyncIterable<NamedRow>;
  /** Only rows for which all filters hold: `label=9`, `length<512`, `label in 3,8`, or a function. */
  filter(...filters: readonly (string | ((row: NamedRow) => boolean))[]): Promise<Dataset>;
  /** Only rows for which `faultOf` gives null; the others are faulty (`onBadRow`), and named by file and line. */
  check(faultOf: (row: NamedRow) => string | null): Promise<Dataset>;
  /** The first rows. */
  limit(count: number): Dataset;
  /**
   * Two parts: a share that is held out, and the rest. A hash of a row's content and the seed decides, so that a row keeps
   * its side when others come or go, and equal rows never stand on both sides.
   */
  split(share: number, seed?: number): Promise<{ readonly rest: Dataset; readonly heldOut: Dataset }>;
  /** Batches for a model; all rows are checked first. */
  source(options: SourceOptions): Promise<RowSource>;
  close(): Promise<void>;
}

/**
 * Opens files, or folders of images by class, as one data set.
 *
 * Every row is read once, so that faulty ones are known before anything is trained.
 *
 * @throws LowrankError "file" for what cannot be read; "data" for what is damaged, with the first 20 faulty rows by file and
 * line (with onBadRow "skip" they are counted in `skipped`).
 * @example
 * const digits = await openDataset(["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]);
 * const { rest, heldOut } = await digits.split(0.1);
 * const source = await rest.source({ inputs: [{ name: "x", type: "float32", dims: ["B", 784] }], batchSize: 64, seed: 1 });
 * await train(adapted, source, { epochs: 3 });
 */
export async function openDataset(paths: string | readonly string[], options: DatasetOptions = {}): Promise<Dataset> {
  const all = typeof paths === "string" ? [paths] : paths;
  if (all.length === 0) throw new LowrankError("config", "data: expected a file or more, got none");
  const table = joinTables(await openTable(all, options));
  const faults = table.faulty.slice(0, 20).map(({ fault }) => fault);
  const skipped = { count: table.faulty.length, faults };
  const { onBadRow = "stop" } = options;
  try {
    if (onBadRow === "stop") throwFaulty(faults, skipped.count);
    const selection = allRows(table);
    if (selection.count === 0) {
      const reason = faults.length > 0 ? ` that can be read; the first fault: ${faults[0]}` : "";
      throw new LowrankError("data", `${all.join(", ")}: expected a row or more, got none${reason}`);
    }
    return dataset({ paths: all, table, skipped, onBadRow }, selection);
  } catch (error) {
    await table.close();
    throw error;
  }
}

interface Opened {
  readonly paths: readonly string[];
  readonly table: Table;
  readonly skipped: Skipped;
  readonly onBadRow: "stop" | "skip";
}

function dataset(opened: Opened, selection: Selection): Dataset {
  const { table, paths, skipped } = opened;
  const { columns, labels, format } = table;
  const named = (row: ArrayLike<Cell>): NamedRow =>
    Object.fromEntries(columns.map(({ name }, index) => [name, row[index]!]));
  const narrowed = async (keep: Parameters<typeof narrow>[2]): Promise<Selection> => narrow(table, selection, keep);
  return {
    paths,
    format,
    columns,
    labels,
    skipped,
    length: selection.count,
    describe: () => {
      const names = columns.slice(0, 8).map(({ name, dims }) => (dims?.length ? `${name} [${dims}]` : name));
      const more = columns.length > 8 ? `, … (${columns.length})` : "";
      const left = skipped.count > 0 ? `, ${skipped.count} faulty left out` : "";
      return `${paths.join(", ")}: ${format}, ${selection.count} rows${left}; columns ${names.join(", ")}${more}`;
    },
    where: (row) => table.where(row),
    async *rows() {
      for await (const { row } of rowsOf(table, selection)) yield named(row);
    },
    async filter(...filters) {
      const tests = filters.map((filter) =>
        typeof filter === "string"
          ? parseFilter(filter, columns, labels)
          : (row: ArrayLike<Cell>) => filter(named(row)),
      );
      const kept = await narrowed((row) => tests.every((test) => test(row)));
      if (kept.count > 0) return dataset(opened, kept);
      throw new LowrankError(
        "data",
        `${paths.join(", ")}: none of ${selection.count} rows passes ${filters.join(", ")}`,
      );
    },
    async check(faultOf) {
      const encoder = { check: (row: ArrayLike<Cell>) => faultOf(named(row)) };
      const checked = await checkRows(table, selection, encoder, opened.onBadRow);
      return dataset({ ...opened, skipped: checked.skipped }, checked.selection);
    },
    limit: (count) => dataset(opened, firstRows(selection, Math.min(count, selection.count))),
    async split(share, seed = 0) {
      if (!(share > 0 && share < 1)) {
        throw new LowrankError("config", `split: expected a share between 0 and 1, got ${share}`);
      }
      const hash = rowHasher(seed);
      const held = await narrowed((row) => hash(row) < share);
      if (held.count === 0 || held.count === selection.count) {
        throw new LowrankError(
          "data",
          `split: a share of ${share} of ${selection.count} rows leaves one part empty; give another share, seed or a file of its own`,
        );
      }
      return { rest: dataset(opened, without(selection, held)), heldOut: dataset(opened, held) };
    },
    async source(options) {
      const encoder = await encoderOf(table, selection, options);
      return createSource(table, await checkRows(table, selection, encoder, opened.onBadRow), encoder, options);
    },
    close: () => table.close(),
  };
}

/** Rows that shapes are planned from in turn: the first may be a faulty one. */
const mostPlanned = 20;

/** Planned from the first row that fits the model, so that a faulty one before it is named as such. */
async function encoderOf(table: Table, selection: Selection, options: SourceOptions): Promise<Encoder> {
  let fault: unknown = null;
  let tried = 0;
  for await (const { row } of rowsOf(table, selection)) {
    try {
      return await encoderFrom(table, row, options);
    } catch (error) {
      fault ??= error;
      tried++;
      const isMisfit = error instanceof LowrankError && error.code === "data";
      if (!isMisfit || tried === mostPlanned) break;
    }
  }
  throw fault ?? new LowrankError("data", "data: expected a row or more, got none");
}

async function encoderFrom(table: Table, row: Row, options: SourceOptions): Promise<Encoder> {
  const { text, shuffle = true, seed = 0, transform } = options;
  if (text !== undefined && transform !== undefined) findImages(table.columns, row, transform); // which throws
  if (text !== undefined) return textEncoder(table.columns, row, { ...options, text, shuffle, seed });
  const image = table.columns.findIndex((column) => column.image);
  const decoder = image < 0 ? null : await decoderOf(options, image);
  const prepare = decoder?.decode ?? null;
  // Shapes are planned from a decoded row.
  const [first] = prepare === null ? [row] : await prepare([row]).catch(() => [row]);
  let change: RowTransform | null = null;
  if (transform !== undefined) {
    const found = decoder ?? findImages(table.columns, row, transform);
    change = rowTransform(transform, seed, found);
  }
  return exampleEncoder(table.columns, first!, { ...options, tableLabels: table.labels, prepare, change });
}

/** A decoder for the model's one image input. */
async function decoderOf(
  { inputs, map = {} }: SourceOptions,
  column: number,
): Promise<ImageColumn & { decode: Prepare }> {
  const mapped = inputs.find(({ name }) => map[name] === "image");
  const input = mapped ?? inputs.find(({ name }) => name === "image") ?? (inputs.length === 1 ? inputs[0] : undefined);
  if (input !== undefined) return { column, dims: imageDims(input), decode: await imageDecoder(input, column) };
  const names = inputs.map(({ name }) => name).join(", ");
  throw new LowrankError("data", `image: expected to know which of ${names} takes the images; say so with a map`);
}
