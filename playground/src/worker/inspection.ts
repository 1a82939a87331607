// What `lowrank inspect` says of any ONNX file: its inputs, operators and sites, and whether a configuration can be trained.
import { LowrankError, readModel, type Support, support } from "lowrank";
import type { Inspection } from "../protocol.ts";

/** @throws LowrankError "file" for one that cannot be read into memory, "model" for one that is no model. */
export async function inspect(file: Blob, r: number, targets: string): Promise<Inspection> {
  const model = readModel(await bytesOf(file));
  const list = targets.split(",").map((target) => target.trim());
  const targetModules = targets.trim() === "all-linear" || targets.trim() === "" ? "all-linear" : list;
  const { said, faults } = verdict(
    () => support(model, { r, loraAlpha: r, targetModules }),
    () => support(model),
  );
  const chosen = new Set(said.verdict?.targets);
  return {
    opset: said.opset,
    producer: said.producer,
    parameters: said.parameters,
    inputs: said.inputs.map(described),
    outputs: said.outputs.map(described),
    operators: said.operators,
    sites: said.sites.map(({ modulePath, operator, shape, parameters }) => ({
      ...{ path: modulePath, operator, shape: sizes(shape), parameters, chosen: chosen.has(modulePath) },
    })),
    trainable: said.verdict?.trainable ?? false,
    adapterParameters: said.verdict?.parameters ?? 0,
    faults: [...faults, ...(said.verdict?.faults ?? [])],
    obstacles: said.verdict?.obstacles.map(({ operator, nodes }) => `${operator}: ${nodes.join(", ")}`) ?? [],
  };
}

async function bytesOf(file: Blob): Promise<Uint8Array> {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new LowrankError(
      "file",
      "could not be read: it takes more memory than the browser gives a page, or is no longer there. Choose it again, or use npx lowrank inspect",
    );
  }
}

/** A configuration that matches nothing says so beside what the model offers. */
function verdict(ask: () => Support, without: () => Support): { said: Support; faults: readonly string[] } {
  try {
    return { said: ask(), faults: [] };
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "config") throw error;
    return { said: without(), faults: error.faults };
  }
}

function described({ name, type, shape }: Support["inputs"][number]): string {
  return `${name}: ${type ?? "no tensor"} ${sizes(shape)}`;
}

function sizes(shape: Support["inputs"][number]["shape"]): string {
  return shape === null ? "?" : `[${shape.map((dim) => dim ?? "?").join(", ")}]`;
}
