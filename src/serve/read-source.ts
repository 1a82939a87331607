// An adapter's bytes, whatever home they come from, as the adapter.
import { readMlxAdapter } from "../adapter/mlx.ts";
import { readOnnxAdapter } from "../adapter/onnx-adapter.ts";
import { readAdapter } from "../adapter/peft.ts";
import type { Adapter } from "../lora/config.ts";
import type { AdapterSource } from "./engine.ts";

/** Reads it. Throws LowrankError "adapter" with every fault; `where` stands before them. */
export function readSource({ home, files }: AdapterSource, where: string, maxRank: number): Adapter {
  if (home === "onnx") return readOnnxAdapter(files.get("")!, { where, maxRank });
  return home === "mlx" ? readMlxAdapter(files, { where, maxRank }) : readAdapter(files, { where, maxRank });
}
