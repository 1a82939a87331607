// A model whose outputs stand for labels: what one learns who is to do as it does (distillation: Hinton, Vinyals and Dean 2015,
// arXiv:1503.02531), and what one is measured against where no labels are.
import { LowrankError } from "../errors.ts";
import type { Model } from "../onnx/model.ts";
import { openSession, type Session, type SessionOptions } from "../runtime/session.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { DataSource } from "../train/data-source.ts";

export interface TeacherOptions {
  /** Which output; null: the first. */
  readonly output: string | null;
  readonly session: SessionOptions;
}

/** Opens a session when it is first asked, and frees it with `close`. */
export interface Teacher {
  /** The source with the model's output, float32, as labels. */
  taught(source: DataSource): DataSource;
  /** The source with the class of the largest score, int64, as labels; of an output [..., 1], with the output itself. */
  decided(source: DataSource): DataSource;
  close(): Promise<void>;
}

/**
 * A model to learn from.
 *
 * @throws LowrankError "config" for an output that there is not; when batches are asked for, "model" for outputs other than
 * float32.
 */
export function openTeacher(model: Model, { output, session }: TeacherOptions): Teacher {
  const names = model.graph.outputs.map(({ name }) => name);
  const name = output ?? names[0]!;
  if (!names.includes(name))
    throw new LowrankError("config", `teacher: expected an output of ${names.join(", ")}, got ${name}`);
  let opening: Promise<Session> | undefined;
  const answer = async (inputs: Readonly<Record<string, Tensor>>): Promise<Tensor<"float32">> => {
    opening ??= openSession(model, session);
    const opened = await opening;
    const feeds = new Map(opened.inputs.flatMap((key) => (inputs[key] ? [[key, inputs[key]] as const] : [])));
    const scores = (await opened.run(feeds, [name])).get(name)!;
    if (scores.type === "float32") return scores;
    throw new LowrankError("model", `teacher: expected float32 outputs to learn, got ${scores.type}`);
  };
  const labelled = (source: DataSource, labelsOf: (scores: Tensor<"float32">) => Tensor): DataSource => ({
    ...source,
    async *batches(position) {
      for await (const given of source.batches(position)) {
        const { inputs } = given.batch;
        yield { ...given, batch: { inputs, labels: labelsOf(await answer(inputs)) } };
      }
    },
  });
  return {
    taught: (source) => labelled(source, (scores) => scores),
    decided: (source) => labelled(source, (scores) => (scores.dims.at(-1) === 1 ? scores : classesOf(scores))),
    close: async () => (await opening)?.dispose(),
  };
}

/** The first of the largest scores of each row. */
function classesOf({ dims, data }: Tensor<"float32">): Tensor<"int64"> {
  const width = dims.at(-1)!;
  const labels = BigInt64Array.from({ length: data.length / width }, (_, row) => {
    const scores = data.subarray(row * width, (row + 1) * width);
    return BigInt(scores.reduce((best, score, at) => (score > scores[best]! ? at : best), 0));
  });
  return tensor("int64", dims.slice(0, -1), labels);
}
