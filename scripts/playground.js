// npm run playground: builds the playground and serves it on this machine. `-- --port N` names the port (default: a free one),
// `-- --build` builds and does not serve.
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { port: { type: "string", default: "0" }, build: { type: "boolean", default: false } },
});
const port = Number(values.port);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  console.error(`--port: expected a number from 0 to 65535, got ${values.port}`);
  process.exit(2);
}
if (!existsSync(new URL("../dist/index.js", import.meta.url))) {
  console.error("dist/ is missing: run npm run build first");
  process.exit(2);
}
const { buildPlayground } = await import("./playground/build.js");
const { servePlayground } = await import("./playground/serve.js");
const folder = await buildPlayground({ tell: (line) => console.error(line) });
if (values.build) console.log(folder);
else {
  const { origin } = await servePlayground(folder, { port }).catch((error) => {
    console.error(
      `--port ${port}: ${error.code === "EADDRINUSE" ? "another program listens there" : error.message}; name another, or none for a free one`,
    );
    process.exit(2);
  });
  console.log(`The playground is at ${origin}/ (Ctrl+C ends it)`);
}
