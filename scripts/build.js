// Builds dist/: the WebAssembly kernels, then TypeScript, then what the compiler does not copy.
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildKernels } from "./build-kernels.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
await buildKernels();

rmSync(join(root, "dist"), { recursive: true, force: true });
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const compiled = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json")], { stdio: "inherit" });
if (compiled.status !== 0) process.exit(compiled.status ?? 1);

const generated = join("onnx", "gen");
mkdirSync(join(root, "dist", generated), { recursive: true });
for (const file of readdirSync(join(root, "src", generated))) {
  copyFileSync(join(root, "src", generated, file), join(root, "dist", generated, file));
}
chmodSync(join(root, "dist", "cli", "main.js"), 0o755);
