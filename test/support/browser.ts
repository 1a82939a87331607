// A real browser for the tests: finds Chromium where people have it, and serves the checkout to a page that imports the
// built package by its name, as a bundler would have resolved it.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { homedir } from "node:os";
import { delimiter, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import ts from "typescript";
import { root } from "./folders.ts";
import { bareImports } from "./imports.ts";

const commands = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"];

const wellKnown = [
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
  "C:\\Program Files (x86)\\Microsoft\\Edge\\Application\\msedge.exe",
];

/**
 * Starts Chromium or a relative of it: the one that CHROME_PATH names, or the first that starts of those on the PATH, in the
 * usual places and in Playwright's cache. Returns why there is none where none starts; throws when the named one does not.
 */
export async function startBrowser({ webgpu = false }: { readonly webgpu?: boolean } = {}): Promise<Browser | string> {
  const named = process.env.CHROME_PATH;
  if (named) return launch(named, webgpu);
  const failed: string[] = [];
  for (const path of browserPaths().filter((candidate) => existsSync(candidate))) {
    try {
      return await launch(path, webgpu);
    } catch (error) {
      failed.push(`${path} did not start (${(error as Error).message.split("\n")[0]})`);
    }
  }
  const found = failed.length === 0 ? "no Chromium was found" : failed.join("; ");
  return `${found}; install one, or name it in CHROME_PATH`;
}

/** Where browsers may be; most of these are not there. */
export function browserPaths(): string[] {
  const onPath = (process.env.PATH ?? "")
    .split(delimiter)
    .flatMap((folder) => commands.map((command) => join(folder, command)));
  const named = process.env.CHROME_PATH ? [process.env.CHROME_PATH] : [];
  return [...named, ...onPath, ...wellKnown, chromium.executablePath(), ...fromPlaywrightCache()];
}

/**
 * With as few of the browser's own doings as can be, and without the sandbox that root cannot have; with WebGPU in software
 * (SwiftShader) where it is wanted, and without a GPU otherwise.
 */
function launch(executablePath: string, webgpu: boolean): Promise<Browser> {
  const args = ["--disable-background-networking", "--disable-component-update", "--no-first-run"];
  if (webgpu) args.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");
  else args.push("--disable-gpu");
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  return chromium.launch({ executablePath, args, timeout: 20_000 });
}

/** Whatever version Playwright has once downloaded, newest first. */
function fromPlaywrightCache(): string[] {
  const caches = [process.env.PLAYWRIGHT_BROWSERS_PATH, join(homedir(), ".cache", "ms-playwright")];
  const programs = [
    ["chrome-linux64", "chrome"],
    ["chrome-linux", "chrome"],
    ["chrome-mac", "Chromium.app", "Contents", "MacOS", "Chromium"],
  ];
  return caches.flatMap((cache) => {
    if (cache === undefined || !existsSync(cache)) return [];
    const versions = readdirSync(cache).filter((name) => /^chromium-\d+$/.test(name));
    versions.sort((a, b) => Number(b.slice(9)) - Number(a.slice(9)));
    return versions.flatMap((version) => programs.map((program) => join(cache, version, ...program)));
  });
}

export interface SiteServer {
  /** "http://127.0.0.1:port" */
  readonly origin: string;
  close(): Promise<void>;
}

/** Serves the checkout on a free loopback port, cross-origin isolated so that WebAssembly may have threads. */
export async function serveCheckout(): Promise<SiteServer> {
  const start = { type: "text/html", body: startPage() };
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    const found = pathname === "/" ? start : readAsset(decodeURIComponent(pathname));
    response.writeHead(found === undefined ? 404 : 200, {
      "Content-Type": found?.type ?? "text/plain",
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
      "Cache-Control": "no-store",
    });
    response.end(found?.body ?? "not found");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { origin: `http://127.0.0.1:${port}`, close: () => stop(server) };
}

/** An empty page whose import map resolves names as a bundler does. */
function startPage(): string {
  const imports: Record<string, string> = { lowrank: "/dist/index.js" };
  for (const name of bareImports(join(root, "dist", "index.js"))) {
    imports[name] = name === "#ort" ? webRuntime() : servedPath(name);
  }
  const map = JSON.stringify({ imports });
  return `<!doctype html><title>lowrank</title><link rel="icon" href="data:,"><script type="importmap">${map}</script>`;
}

function servedPath(specifier: string): string {
  const path = fileURLToPath(import.meta.resolve(specifier)).replaceAll("\\", "/");
  // node_modules may be a link to a folder elsewhere: it is served under its own name.
  return path.slice(path.indexOf("/node_modules/"));
}

/** onnxruntime-web's entry for browsers; Node itself would resolve to the one for Node. */
function webRuntime(): string {
  const folder = "node_modules/onnxruntime-web";
  const { exports } = JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8")) as {
    exports: { ".": { import: { default: string } } };
  };
  return normalize(`/${folder}/${exports["."].import.default}`).replaceAll("\\", "/");
}

const types: Readonly<Record<string, string>> = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".ts": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/** A file of the checkout; TypeScript without its types. */
function readAsset(pathname: string): { type: string; body: string | Buffer } | undefined {
  const path = normalize(join(root, pathname));
  if (!path.startsWith(root) || !existsSync(path)) return undefined;
  const extension = extname(path);
  const type = types[extension] ?? "application/octet-stream";
  if (extension !== ".ts") return { type, body: readFileSync(path) };
  const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true };
  return { type, body: ts.transpileModule(readFileSync(path, "utf8"), { compilerOptions: options }).outputText };
}

async function stop(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
}
