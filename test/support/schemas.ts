// The published schemas, to hold what the commands print and write against them.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { root } from "./folders.ts";

const folder = join(root, "schemas");
const schemas = readdirSync(folder).map((file) => JSON.parse(readFileSync(join(folder, file), "utf8")) as object);
const ajv = new Ajv2020({ allErrors: true, strict: true, allowUnionTypes: true, schemas });

/** What is wrong with a value: a line for each fault. `name` is that of the schema's file without its ending. */
export function schemaFaults(name: string, value: unknown): string[] {
  const { $id } = JSON.parse(readFileSync(join(folder, `${name}.schema.json`), "utf8")) as { $id: string };
  const validate = ajv.getSchema($id)!;
  return validate(value) ? [] : validate.errors!.map(({ instancePath, message }) => `${instancePath} ${message}`);
}
