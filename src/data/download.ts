// Downloads published files from mirrors that are trusted for nothing: bounded in time and size, retried where that
// may help, and taken only when the SHA-256 of the unpacked content is the published one.
import { setTimeout as sleep } from "node:timers/promises";
import { LowrankError } from "../errors.ts";
import { type PublishedFile, sha256Of } from "./files.ts";
import { concatenate, unpack } from "./gzip.ts";

/** Milliseconds to wait. */
export interface DownloadTimes {
  /** For the first answer of each mirror, all tries together; default 4,500, so that two dead mirrors take 9 s. */
  connect: number;
  /** For the next bytes of a download that has begun; default 10,000. */
  stall: number;
  /** Before the second try of a file; twice that before the third. Default 500. */
  backoff: number;
}

export interface DownloadProgress {
  kind: "download";
  file: string;
  url: string;
  /** Bytes so far, and in all where the server says so. */
  received: number;
  total: number | null;
}

export interface DownloadOptions {
  mirrors: readonly string[];
  times: DownloadTimes;
  fetch: typeof fetch;
  onProgress: (event: DownloadProgress) => void;
  signal: AbortSignal | undefined;
}

/** The files as they came and unpacked, by name; or why it failed, mirror by mirror. */
export type DownloadResult =
  | { ok: true; archives: Map<string, Uint8Array>; contents: Map<string, Uint8Array>; mirrors: string[] }
  | { ok: false; faults: string[] /** A mirror sent something else than the published files. */; wrong: boolean };

const triesPerFile = 3;

/** More than any archive of these files is larger than its content. */
const slack = 1 << 20;

/**
 * Fetches all files, `<mirror><name>.gz`. Each mirror in turn is asked for what is still missing, until it fails.
 *
 * Throws LowrankError "aborted" when the signal says so; every other failure is in the result.
 */
export async function download(files: readonly PublishedFile[], options: DownloadOptions): Promise<DownloadResult> {
  const archives = new Map<string, Uint8Array>();
  const contents = new Map<string, Uint8Array>();
  const used: string[] = [];
  const faults: string[] = [];
  let wrong = false;
  for (const mirror of options.mirrors) {
    if (!URL.canParse(mirror)) throw new LowrankError("config", `mirrors: expected web addresses, got ${mirror}`);
    const state: MirrorState = { answered: false, answerBy: Date.now() + options.times.connect };
    try {
      for (const file of files) {
        if (contents.has(file.name)) continue;
        const { archive, content } = await fetchWithRetries(mirror, file, state, options);
        archives.set(file.name, archive);
        contents.set(file.name, content);
        if (!used.includes(mirror)) used.push(mirror);
      }
      return { ok: true, archives, contents, mirrors: used };
    } catch (error) {
      if (!(error instanceof MirrorFault)) throw error;
      faults.push(error.message);
      wrong ||= error.kind === "wrong";
    }
  }
  return { ok: false, faults, wrong };
}

/** What is known of a mirror: only one that has answered gets the time of a live one. */
interface MirrorState {
  answered: boolean;
  answerBy: number;
}

/** Why a mirror did not give a file. "wrong": it gave another one. */
class MirrorFault extends Error {
  readonly kind: "unavailable" | "wrong";
  readonly mayPass: boolean;

  constructor(kind: "unavailable" | "wrong", message: string, mayPass: boolean) {
    super(message);
    this.kind = kind;
    this.mayPass = mayPass;
  }
}

interface Fetched {
  archive: Uint8Array;
  content: Uint8Array;
}

async function fetchWithRetries(
  mirror: string,
  file: PublishedFile,
  state: MirrorState,
  options: DownloadOptions,
): Promise<Fetched> {
  for (let attempt = 1; ; attempt++) {
    try {
      const archive = await fetchArchive(mirror, file, state, options);
      return { archive, content: await checkedContent(archive, mirror, file) };
    } catch (error) {
      if (options.signal?.aborted) throw aborted(options.signal);
      if (!(error instanceof MirrorFault) || !error.mayPass || attempt === triesPerFile) throw error;
    }
    const pause = options.times.backoff * 2 ** (attempt - 1);
    await sleep(pause, undefined, options.signal ? { signal: options.signal } : {}).catch(() => {
      throw aborted(options.signal);
    });
  }
}

async function fetchArchive(
  mirror: string,
  file: PublishedFile,
  state: MirrorState,
  options: DownloadOptions,
): Promise<Uint8Array> {
  const { times, signal } = options;
  const url = new URL(`${file.name}.gz`, mirror.endsWith("/") ? mirror : `${mirror}/`).href;
  const wait = state.answered ? times.stall : Math.max(0, state.answerBy - Date.now());
  const watchdog = startWatchdog(wait, signal);
  try {
    const response = await options.fetch(url, {
      signal: watchdog.signal,
      headers: { "accept-encoding": "identity" }, // the archive as it is, not unpacked on the way
    });
    state.answered = true;
    watchdog.restart(times.stall);
    if (response.status !== 200) {
      await response.body?.cancel();
      throw new MirrorFault("unavailable", `${url}: HTTP ${response.status}`, isPassing(response.status));
    }
    return await readBody(response, url, file, () => watchdog.restart(times.stall), options);
  } catch (error) {
    if (error instanceof MirrorFault) throw error;
    if (signal?.aborted) throw aborted(signal);
    if (watchdog.signal.aborted) {
      const seconds = (watchdog.milliseconds / 1000).toFixed(1);
      throw new MirrorFault("unavailable", `${url}: no answer within ${seconds} s`, state.answered);
    }
    const code = causeCode(error);
    throw new MirrorFault("unavailable", `${url}: ${code}`, state.answered || !noNetwork.has(code));
  } finally {
    watchdog.stop();
  }
}

async function readBody(
  response: Response,
  url: string,
  file: PublishedFile,
  alive: () => void,
  options: DownloadOptions,
): Promise<Uint8Array> {
  // A body that is unpacked on the way is longer than its length says.
  const length = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  const total = length !== null && /^\d{1,15}$/.test(length) ? Number(length) : null;
  const maxBytes = file.bytes + slack;
  const chunks: Uint8Array[] = [];
  let received = 0;
  // Leaving the loop early cancels the body, and with it the connection.
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    alive();
    received += chunk.length;
    if (received > maxBytes) {
      throw new MirrorFault("wrong", `${url}: expected at most ${maxBytes} bytes, got more`, false);
    }
    chunks.push(chunk);
    options.onProgress({ kind: "download", file: file.name, url, received, total });
  }
  return concatenate(chunks, received);
}

async function checkedContent(archive: Uint8Array, mirror: string, file: PublishedFile): Promise<Uint8Array> {
  const where = `${mirror} ${file.name}`;
  const content = await unpack(archive, where, file.bytes).catch((error: unknown) => {
    if (!(error instanceof LowrankError)) throw error;
    throw new MirrorFault("wrong", error.message, false);
  });
  const sha256 = sha256Of(content);
  if (sha256 === file.sha256) return content;
  throw new MirrorFault("wrong", `${where}: expected SHA-256 ${file.sha256}, got ${sha256}`, false);
}

/** Errors that say there is no way to the host; trying again at once is of no use. */
const noNetwork: ReadonlySet<string> = new Set([
  "ENOTFOUND",
  "EAI_AGAIN",
  "EAI_FAIL",
  "EAI_NODATA",
  "ENETUNREACH",
  "EHOSTUNREACH",
  "ENETDOWN",
  "ECONNREFUSED",
  "ETIMEDOUT",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** HTTP statuses that the server itself calls passing. */
function isPassing(status: number): boolean {
  return status >= 500 || status === 408 || status === 429;
}

/** fetch says "fetch failed" and no more; the reason is its cause's code. */
function causeCode(error: unknown): string {
  const { cause, message } = error as Error;
  if (!(cause instanceof Error)) return message;
  return (cause as NodeJS.ErrnoException).code ?? cause.message;
}

interface Watchdog {
  signal: AbortSignal;
  /** The wait that runs, or that ran out. */
  milliseconds: number;
  restart(milliseconds: number): void;
  stop(): void;
}

/** Aborts its signal with the outer one, and when it is not restarted or stopped in time. */
function startWatchdog(milliseconds: number, outer: AbortSignal | undefined): Watchdog {
  const controller = new AbortController();
  const abort = (): void => controller.abort();
  let timer: NodeJS.Timeout | undefined;
  const watchdog: Watchdog = {
    signal: controller.signal,
    milliseconds,
    restart(wait) {
      watchdog.milliseconds = wait;
      clearTimeout(timer);
      timer = setTimeout(abort, wait);
    },
    stop() {
      clearTimeout(timer);
      outer?.removeEventListener("abort", abort);
    },
  };
  outer?.addEventListener("abort", abort);
  watchdog.restart(milliseconds);
  return watchdog;
}

function aborted(signal: AbortSignal | undefined): LowrankError {
  return new LowrankError("aborted", "download of MNIST: stopped on request", { cause: signal?.reason });
}
