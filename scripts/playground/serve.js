// A small server for the built playground, and nothing else: this machine's own address, a free port, and the headers that the
// page needs. Cross-origin isolation lets WebAssembly have threads; the policy lets the page ask for nothing from elsewhere.
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";

const types = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/** `wasm-unsafe-eval` is what compiling WebAssembly is called; pictures that are opened are blobs. */
export const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "connect-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** Without cross-origin isolation (`isolated: false`) the page runs on one thread. */
export async function servePlayground(folder, { port = 0, isolated = true } = {}) {
  const server = createServer((request, response) => {
    if (request.method !== "GET" && request.method !== "HEAD")
      return void response.writeHead(405, { Allow: "GET, HEAD" }).end();
    const found = fileOf(folder, request.url ?? "/");
    const headers = {
      "Content-Security-Policy": contentSecurityPolicy,
      "X-Content-Type-Options": "nosniff",
      "Referrer-Policy": "no-referrer",
      ...(isolated && {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
      }),
    };
    if (found === null)
      return void response.writeHead(404, { ...headers, "Content-Type": "text/plain" }).end("not found");
    const isHashed = found.path.includes(`${sep}assets${sep}`);
    response.writeHead(200, {
      ...headers,
      "Content-Type": types[extname(found.path)] ?? "application/octet-stream",
      "Content-Length": found.size,
      "Cache-Control": isHashed ? "public, max-age=31536000, immutable" : "no-cache",
    });
    if (request.method === "HEAD") return void response.end();
    createReadStream(found.path)
      .on("error", () => response.destroy())
      .pipe(response);
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

/** A file below the folder, or null: for what is not there, no file, or above it. */
function fileOf(folder, url) {
  let pathname;
  try {
    pathname = decodeURIComponent(new URL(url, "http://localhost").pathname);
  } catch {
    return null;
  }
  const path = normalize(join(folder, pathname.endsWith("/") ? `${pathname}index.html` : pathname));
  if (!path.startsWith(folder + sep) || pathname.includes("\0")) return null;
  const about = statSync(path, { throwIfNoEntry: false });
  return about?.isFile() ? { path, size: about.size } : null;
}
