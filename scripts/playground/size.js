// How much the built playground downloads until it reads a digit, the runtime's WebAssembly and the base's weights aside: the
// page, its style, its script and its worker's, with all that these import at once, and the runtime's JavaScript; brotli.
// Fails over the limit. What a press of a button loads later is told beside it.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync } from "node:zlib";

const limit = 150_000;
const dist = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "playground", "dist");
const names = readdirSync(join(dist, "assets")).filter((name) => /\.(js|css|mjs)$/.test(name));

const read = (name) => readFileSync(join(dist, "assets", name));
const size = (bytes) => brotliCompressSync(bytes).length;

const atOnce = new Set();
const visit = (name) => {
  if (atOnce.has(name) || !names.includes(name)) return;
  atOnce.add(name);
  // `from"./x.js"` and `import"./x.js"` are loaded at once; `import("./x.js")` is not.
  for (const [, next] of read(name)
    .toString()
    .matchAll(/(?:from|import)\s*"\.\/([^"]+)"/g))
    visit(next);
};
const page = readFileSync(join(dist, "index.html"));
for (const [, name] of page.toString().matchAll(/assets\/([^"]+)"/g)) visit(name);
const others = [/^main-.*\.js$/, /^runtime-.*\.js$/, /^ort\.wasm\.min-.*\.js$/, /^ort-wasm-simd-threaded-.*\.mjs$/];
for (const pattern of others) {
  const found = names.filter((name) => pattern.test(name));
  if (found.length !== 1)
    throw new Error(`expected one file like ${pattern} in playground/dist/assets, got ${found.length}`);
  visit(found[0]);
}
const total = [...atOnce].reduce((sum, name) => sum + size(read(name)), size(page));
const later = names.filter((name) => !atOnce.has(name) && !/jspi/.test(name));
const rest = later.reduce((sum, name) => sum + size(read(name)), 0);
const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
console.log(
  `The playground until it reads: ${kilobytes(total)} of at most ${kilobytes(limit)}; later ${kilobytes(rest)} more.`,
);
if (total > limit) process.exit(1);
