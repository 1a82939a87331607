// The commands of docs/serving.md, run in their order by a shell: what stands in ```json behind them is what they must answer.
import { spawn } from "node:child_process";
import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { startLowrank, until } from "./support/command.ts";
import { root, temporaryFolder } from "./support/folders.ts";

interface Step {
  readonly command: string;
  /** The JSON that it prints; undefined where the guide shows none. */
  readonly answer: unknown;
}

function stepsOf(text: string): Step[] {
  const blocks = [...text.matchAll(/^```(sh|json)\n(.*?)^```$/gms)].map(([, kind, body]) => ({
    kind,
    body: body!.trim(),
  }));
  return blocks.flatMap(({ kind, body }, at) => {
    const next = blocks[at + 1];
    return kind === "sh"
      ? [{ command: body, answer: next?.kind === "json" ? (JSON.parse(next.body) as unknown) : undefined }]
      : [];
  });
}

/** What a command prints to stdout. */
function shell(command: string, cwd: string): Promise<string> {
  const child = spawn("sh", ["-c", command], { cwd, stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    text += part;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => (code === 0 ? resolve(text) : reject(new Error(`${command}: ended with ${code}`))));
  });
}

/** Numbers to five digits: other processors round otherwise behind that. */
function rounded(value: unknown): unknown {
  if (typeof value === "number") return Number(value.toPrecision(5));
  if (Array.isArray(value)) return value.map(rounded);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, rounded(one)]));
}

it("answers as the guide says", async () => {
  const folder = temporaryFolder();
  cpSync(join(root, "test", "fixtures", "serving"), folder, { recursive: true });
  const [begin, ...asked] = stepsOf(readFileSync(join(root, "docs", "serving.md"), "utf8"));
  const words = begin!.command.replace("--port 8000 &", "--port 0").split(" ");
  expect(words.shift()).toBe("lowrank");
  const server = startLowrank(words, { cwd: folder });
  afterAll(() => void server.process.kill("SIGKILL"));
  await until(() => server.soFar.stdout.includes('"listening"'), server);
  const port = /"url":"http:\/\/127\.0\.0\.1:(\d+)"/.exec(server.soFar.stdout)![1]!;
  expect(asked.length).toBeGreaterThanOrEqual(5);
  for (const { command, answer } of asked) {
    const text = await shell(command.replace("localhost:8000", `127.0.0.1:${port}`), folder);
    expect(answer, command).toBeDefined();
    expect(rounded(JSON.parse(text)), command).toEqual(rounded(answer));
  }
  server.process.kill("SIGTERM");
  expect((await server.ended).code).toBe(0);
});
