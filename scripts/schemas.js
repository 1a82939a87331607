// Writes schemas/<verb>-options.schema.json from the option table: node scripts/schemas.js, after a build.
import { writeFile } from "node:fs/promises";
import { sweepSchema } from "../dist/sweep/schema.js";
import { verbs } from "../dist/tune/option-table.js";
import { schemaOf } from "../dist/tune/settings.js";

for (const verb of verbs) {
  const path = new URL(`../schemas/${verb}-options.schema.json`, import.meta.url);
  await writeFile(path, `${JSON.stringify(schemaOf(verb), null, 2)}\n`);
}
const sweep = new URL("../schemas/sweep.schema.json", import.meta.url);
await writeFile(sweep, `${JSON.stringify(sweepSchema(), null, 2)}\n`);
console.log(`wrote ${verbs.length + 1} schemas`);
