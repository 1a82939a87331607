// The package as it is published and the repository as it is cloned: what is in them, what must not be, and the public names.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { node } from "./support/command.ts";
import { filesBelow, root, temporaryFolder } from "./support/folders.ts";
import { bareImports } from "./support/imports.ts";

const onWindows = process.platform === "win32";

/** npm's answer, as text. Scripts are left out: packing must not build while other tests run what was built. */
function npm(...args: string[]): string {
  return execFileSync("npm", [...args, "--ignore-scripts"], {
    cwd: root,
    encoding: "utf8",
    shell: onWindows,
    stdio: ["ignore", "pipe", "pipe"],
  });
}

describe("the published package", () => {
  let files: string[];

  beforeAll(() => {
    const [packed] = JSON.parse(npm("pack", "--dry-run", "--json")) as [{ files: { path: string }[] }];
    files = packed.files.map(({ path }) => path);
  });

  it("has what its users need", () => {
    expect(files).toEqual(
      expect.arrayContaining([
        ...["package.json", "README.md", "LICENSE", "CHANGELOG.md", "schemas/summary.schema.json"],
        ...["dist/index.js", "dist/index.d.ts", "dist/node.js", "dist/node.d.ts", "dist/cli/main.js"],
        ...["dist/train/gen/optimizer-wasm.js", "dist/linalg/gen/products-wasm.js"],
      ]),
    );
  });

  it("has nothing else", () => {
    const others = files.filter(
      (path) => !/^(dist|schemas)\/|^(package\.json|README\.md|LICENSE|CHANGELOG\.md)$/.test(path),
    );
    expect(others).toEqual([]);
    expect(files.filter((path) => /\.test\.|\/testing\/|fixtures|\.as\.|(?<!\.d)\.ts$|tsbuildinfo/.test(path))).toEqual(
      [],
    );
  });

  it("has every file that package.json names", () => {
    const { bin, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      bin: Record<string, string>;
      exports: Record<string, string | Record<string, string>>;
    };
    const exported = Object.values(exports).flatMap((entry) =>
      typeof entry === "string" ? [entry] : Object.values(entry),
    );
    for (const path of [...Object.values(bin), ...exported]) expect(files).toContain(path.replace(/^\.\//, ""));
  });

  it("can be started by its name", () => {
    const main = join(root, "dist", "cli", "main.js");
    expect(readFileSync(main, "utf8").split("\n")[0]).toBe("#!/usr/bin/env node");
    if (!onWindows) expect(statSync(main).mode & 0o111).toBe(0o111);
  });
});

describe("the public names", () => {
  const everywhere = [
    ...[
      "readModel",
      "writeModel",
      "sites",
      "summary",
      "attachLora",
      "attachAll",
      "initAdapter",
      "valueAndGrad",
      "train",
    ],
    ...["readAdapter", "writeAdapter", "merge", "createSession"],
  ];
  const inNode = ["runStudy", "loadMnist"];

  const project = temporaryFolder();

  it("can be imported by a project that has the package installed", async () => {
    // As npm links a package into node_modules.
    mkdirSync(join(project, "node_modules"));
    symlinkSync(root, join(project, "node_modules", "lowrank"), "junction");
    const code = (entry: string): string =>
      `import * as all from ${JSON.stringify(entry)}; console.log(JSON.stringify(Object.keys(all)))`;
    const namesIn = async (entry: string): Promise<string[]> => {
      const { code: exit, stdout, stderr } = await node(["--input-type=module", "-e", code(entry)], { cwd: project });
      expect([exit, stderr]).toEqual([0, ""]);
      return JSON.parse(stdout) as string[];
    };
    const [main, browser] = [await namesIn("lowrank"), await namesIn("lowrank/browser")];
    expect(main).toEqual(expect.arrayContaining([...everywhere, ...inNode]));
    expect(browser).toEqual(expect.arrayContaining(everywhere));
    expect(main.filter((name) => !browser.includes(name))).toEqual(expect.arrayContaining(inNode));
    expect(browser.filter((name) => !main.includes(name))).toEqual([]);
  });

  it("need nothing of Node's in the browser part, and one library beside the runtime", () => {
    const imported = bareImports(join(root, "dist", "index.js"));
    expect(imported).toContain("#ort");
    expect(imported.filter((name) => !/^(#ort|@bufbuild\/protobuf\/wire)$/.test(name))).toEqual([]);
  });

  it("have types that do not lean on the choice of runtime", () => {
    const leaning = filesBelow(join(root, "dist"))
      .filter((path) => path.endsWith(".d.ts"))
      .filter((path) =>
        /\b(from|import\()\s*["'](#ort|onnxruntime-(node|web))/.test(readFileSync(join(root, "dist", path), "utf8")),
      );
    expect(leaning).toEqual([]);
  });
});

describe("the repository", () => {
  it("has no path or registry of one machine, and nothing left to be done", (context) => {
    const tracked = trackedFiles();
    if (tracked === null) context.skip("no git checkout here: its files cannot be told from others");
    const patterns = unwanted();
    const found = tracked!.flatMap((path) => {
      const text = readFileSync(join(root, path), "latin1");
      const isText = !text.includes("\0");
      return patterns.flatMap(({ what, pattern, binary }) => {
        const match = binary || isText ? pattern.exec(text) : null;
        return match === null ? [] : [`${path}: ${what}: ${text.slice(match.index, match.index + 60)}`];
      });
    });
    expect(tracked!.length).toBeGreaterThan(100);
    expect(found).toEqual([]);
  });

  for (const document of ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]) {
    it(`has everything that ${document} links to`, () => {
      expect(brokenLinks(document)).toEqual([]);
    });
  }
});

/** What git carries, or would carry with the next commit; null outside of a checkout. */
function trackedFiles(): string[] | null {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  try {
    const list = execFileSync("git", args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    return list.split("\0").filter((path) => path !== "" && existsSync(join(root, path)));
  } catch {
    return null;
  }
}

/** Put together from parts, so that this file is none of what it looks for. `binary`: worth a look in binary files too. */
function unwanted(): { what: string; pattern: RegExp; binary: boolean }[] {
  const literal = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // Short ones ("/app") are in many texts by right.
  const places = [root.replace(/[\\/]$/, ""), homedir()].filter((path) => path.split(/[\\/]/).length > 2);
  const homes = ["home", "Users"].map((name) => `(?<![\\w.])/${name}/[A-Za-z]`);
  const registries = ["npmjs.org", "yarnpkg.com"].map((domain) => literal(`registry.${domain}`));
  const configured = new URL(npm("config", "get", "registry").trim()).hostname;
  if (!/^(localhost|127\.|\[)/.test(configured)) registries.push(literal(configured));
  return [
    { what: "an absolute path", pattern: new RegExp([...places.map(literal), ...homes].join("|")), binary: true },
    { what: "a registry", pattern: new RegExp(registries.join("|")), binary: true },
    { what: "unfinished", pattern: new RegExp(`\b(${["TO", "DO"].join("")}|X{3})\b`), binary: false },
  ];
}

/** Relative links to files that are not there, and to headings that are not in them. */
function brokenLinks(document: string): string[] {
  const text = withoutCode(readFileSync(join(root, document), "utf8"));
  const targets = [...text.matchAll(/\]\(<?([^)\s>]+)|\b(?:src|href)="([^"]+)"/g)].map(
    ([, link, html]) => link ?? html!,
  );
  return targets.filter((target) => {
    if (/^[a-z][a-z0-9+.-]*:/i.test(target)) return false;
    const [path = "", heading] = target.split("#");
    const file = path === "" ? document : join(dirname(document), path);
    if (!existsSync(join(root, file))) return true;
    return heading !== undefined && file.endsWith(".md") && !headings(file).includes(heading);
  });
}

/** The anchors that GitHub gives a document's headings. */
function headings(document: string): string[] {
  const lines = withoutCode(readFileSync(join(root, document), "utf8")).matchAll(/^#{1,6} +(.+?) *$/gm);
  return [...lines].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

function withoutCode(markdown: string): string {
  return markdown.replace(/^```[\s\S]*?^```/gm, "");
}
