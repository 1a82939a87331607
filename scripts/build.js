// Builds dist/: the WebAssembly kernels, then TypeScript, then what the compiler does not copy. The new dist/ takes the old
// one's place only when it is whole.
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildKernels } from "./build-kernels.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const dist = join(root, "dist");
await buildKernels();

// Beside dist/, so that moving it there is a rename.
const fresh = mkdtempSync(join(root, ".dist-"));
process.on("exit", () => rmSync(fresh, { recursive: true, force: true }));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const compiler = [tsc, "-p", join(root, "tsconfig.build.json"), "--outDir", fresh];
const compiled = spawnSync(process.execPath, compiler, { stdio: "inherit" });
if (compiled.status !== 0) process.exit(compiled.status ?? 1);

const trial = join("data", "formats", "parquet-trial-process.js");
cpSync(join(root, "src", trial), join(fresh, trial));
chmodSync(join(fresh, "cli", "main.js"), 0o755);
chmodSync(fresh, 0o755);
rmSync(dist, { recursive: true, force: true });
renameSync(fresh, dist);
