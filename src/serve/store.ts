// The adapters that are resident in the engines: loaded when they are asked for, kept by least recent use within bounds of
// memory and number, never let go while a request holds them, and loaded anew when their files have changed. Each content
// that is loaded has a key of its own, so that requests which hold the old one keep it while the new one is there.
import { createHash } from "node:crypto";
import { realpath } from "node:fs/promises";
import { join } from "node:path";
import { findAdapter, glance, type Identity, identify, type Listed, listAdapters, readPlace } from "./catalogue.ts";
import type { AdapterSource, LoadedInfo } from "./engine.ts";
import { Refusals } from "./refusals.ts";
import { ServeError } from "./serve-error.ts";

/** Where adapters are loaded: a pool of engines. */
export interface Loader {
  load(key: string, label: string, source: AdapterSource): Promise<LoadedInfo>;
  unload(key: string): Promise<void>;
}

export interface StoreLimits {
  /** Bytes that resident adapters may take together. */
  readonly maxMemory: number;
  /** How many may be resident. */
  readonly maxResident: number;
  /** Bytes that the files of one may have. */
  readonly maxAdapterBytes: number;
}

export interface StoreEvents {
  readonly onLoad?: (name: string, version: string, seconds: number) => void;
  readonly onFail?: (name: string, version: string, reason: string) => void;
  readonly onEvict?: (name: string, version: string) => void;
}

/** An adapter that stays until `release` is called. */
export interface Lease {
  readonly key: string;
  readonly name: string;
  readonly version: string;
  /** SHA-256 of its files, the first 16 hexadecimal digits. */
  readonly digest: string;
  release(): void;
}

interface Resident {
  readonly key: string;
  readonly name: string;
  readonly version: string;
  readonly digest: string;
  readonly bytes: number;
  readonly identity: string;
  /** What a glance at its files saw last. */
  seen: string;
  pins: number;
  /** Replaced or asked to go: it is let go of when nobody holds it. */
  isLeaving: boolean;
  isGone: boolean;
}

export type AdapterState = "READY" | "UNAVAILABLE" | "LOADING";

export interface IndexEntry {
  readonly name: string;
  readonly version: string;
  readonly state: AdapterState;
  readonly reason: string;
}

/** How long a request waits for room that adapters in use take, in milliseconds. */
const maxWait = 1000;

export class AdapterStore {
  readonly #folder: string;
  readonly #root: string;
  readonly #loader: Loader;
  readonly #limits: StoreLimits;
  readonly #events: StoreEvents;
  /** What may be asked for. */
  #listed: Map<string, Listed>;
  /** Unloaded on request: not loaded again before that is asked for. */
  readonly #withdrawn = new Set<string>();
  /** By name and version, the least recently used first. */
  readonly #resident = new Map<string, Resident>();
  readonly #loading = new Map<string, Promise<Resident>>();
  readonly #refusals = new Refusals();
  #bytes = 0;
  /** What is being loaded. */
  #reservedBytes = 0;
  #reservedCount = 0;
  /** Called when an adapter is no longer in use. */
  #waiting: (() => void)[] = [];
  #count = 0;
  /** Counts how often the engines were replaced. */
  #generation = 0;

  private constructor(
    folder: string,
    root: string,
    listed: Map<string, Listed>,
    options: { loader: Loader; limits: StoreLimits; events: StoreEvents },
  ) {
    this.#folder = folder;
    this.#root = root;
    this.#listed = listed;
    this.#loader = options.loader;
    this.#limits = options.limits;
    this.#events = options.events;
  }

  /** Lists the folder. Throws LowrankError "file" when it cannot be read. */
  static async open(
    folder: string,
    options: { loader: Loader; limits: StoreLimits; events?: StoreEvents },
  ): Promise<AdapterStore> {
    const listed = await listAdapters(folder);
    return new AdapterStore(folder, await realpath(folder), listed, { ...options, events: options.events ?? {} });
  }

  /** The names that can be asked for. */
  get names(): string[] {
    return [...this.#listed.keys()].filter((name) => !this.#withdrawn.has(name));
  }

  /** How many adapters are resident, and their bytes. */
  get resident(): { readonly count: number; readonly bytes: number } {
    return { count: this.#resident.size, bytes: this.#bytes };
  }

  /** The versions of an adapter, and the one that is served. Throws ServeError 404 when there is no such adapter. */
  versionsOf(name: string): { readonly versions: readonly string[]; readonly current: string } {
    const { versions, current } = this.#find(name);
    return { versions: [...versions.keys()], current };
  }

  /** The folder of an adapter. Throws ServeError 404 when there is none, 400 for an adapter that is one file. */
  folderOf(name: string): string {
    const { versions, current } = this.#find(name);
    if (versions.get(current)!.home !== "onnx") return join(this.#root, name);
    throw new ServeError(400, `${labelOf(name)} is an .onnx_adapter file, which has no room for versions and examples`);
  }

  /** The files of the version that is served. Throws ServeError 404. */
  read(name: string): Promise<AdapterSource> {
    const { versions, current } = this.#find(name);
    return readPlace(versions.get(current)!);
  }

  /** Every adapter with its state. */
  index(): IndexEntry[] {
    return Array.from(this.#listed.values(), ({ name, current }) => {
      const id = idOf(name, current);
      const isResident = this.#resident.has(id);
      const state = isResident ? "READY" : this.#loading.has(id) ? "LOADING" : "UNAVAILABLE";
      const idle = this.#withdrawn.has(name) ? "unloaded" : "not loaded yet: the first request loads it";
      const reason = isResident ? "" : (this.#refusals.reasonOf(id)?.message ?? (state === "LOADING" ? "" : idle));
      return { name, version: current, state, reason };
    });
  }

  /** Whether the version that is served is resident. */
  isLoaded(name: string): boolean {
    const listed = this.#listed.get(name);
    return listed !== undefined && !this.#withdrawn.has(name) && this.#resident.has(idOf(name, listed.current));
  }

  /** Whether it was tried and could not be loaded. */
  isRefused(name: string, version: string): boolean {
    return this.#refusals.reasonOf(idOf(name, version)) !== undefined;
  }

  /**
   * Holds an adapter, loading it if need be; at once where it is resident.
   *
   * @throws ServeError 404 when there is none of that name or version, 400 with its faults when it cannot be loaded, 503 when
   * there is no room beside those that are in use.
   */
  acquire(name: string, version?: string): Lease | Promise<Lease> {
    const listed = this.#find(name);
    const wanted = version ?? listed.current;
    const id = idOf(name, wanted);
    const resident = this.#resident.get(id);
    if (resident !== undefined) return this.#lease(id, resident);
    return this.#loadAndLease(listed, wanted, id);
  }

  /** Loads an adapter that the folder holds now, or its present content in the place of the one before. Throws as `acquire` does. */
  async load(name: string, version?: string): Promise<void> {
    const listed = await findAdapter(this.#folder, this.#root, name);
    if (listed === null) throw unknown(name);
    this.#listed.set(name, listed);
    this.#withdrawn.delete(name);
    const wanted = version ?? listed.current;
    await this.#refresh(listed, wanted, { isAsked: true });
  }

  /** Lets an adapter go when no request holds it any more; requests from now on find none. Throws ServeError 404. */
  unload(name: string): void {
    this.#find(name);
    this.#withdrawn.add(name);
    for (const [id, resident] of this.#resident) if (resident.name === name) this.#dismiss(id, resident);
  }

  /** Looks at the files of all that is resident, and loads what has changed. */
  async refresh(): Promise<void> {
    for (const resident of [...this.#resident.values()]) {
      const { name, version, isLeaving } = resident;
      const place = this.#listed.get(name)?.versions.get(version);
      if (place === undefined || isLeaving) continue;
      const seen = await glance(this.#root, name, place);
      if (seen === resident.seen) continue;
      resident.seen = seen;
      await this.refreshOne(name).catch(() => undefined);
    }
  }

  /** The same for one adapter: new versions, another choice of the one that is served, changed files, or none any more. */
  async refreshOne(name: string): Promise<void> {
    const listed = await findAdapter(this.#folder, this.#root, name);
    if (listed === null) {
      this.#listed.delete(name);
      for (const [id, one] of this.#resident) if (one.name === name) this.#dismiss(id, one);
      return;
    }
    const versions = [...this.#resident.values()].filter((one) => one.name === name).map(({ version }) => version);
    for (const version of new Set([...versions, listed.current])) {
      const isThere = listed.versions.has(version);
      if (isThere) await this.#refresh(listed, version, { isAsked: false });
      else this.#dismissId(idOf(name, version));
    }
    // Only now: until the new version is loaded, requests get the one before.
    this.#listed.set(name, listed);
  }

  /** Everything that was resident is gone: the engines have been replaced. */
  forget(): void {
    this.#generation++;
    for (const resident of this.#resident.values()) resident.isGone = true;
    this.#resident.clear();
    this.#bytes = 0;
  }

  #find(name: string): Listed {
    const listed = this.#listed.get(name);
    if (listed === undefined || this.#withdrawn.has(name)) throw unknown(name);
    return listed;
  }

  #lease(id: string, resident: Resident): Lease {
    // The last in the map is the one that was used last.
    if (this.#resident.get(id) === resident) {
      this.#resident.delete(id);
      this.#resident.set(id, resident);
    }
    resident.pins++;
    let isHeld = true;
    const { key, name, version, digest } = resident;
    const release = (): void => {
      if (!isHeld) return;
      isHeld = false;
      resident.pins--;
      if (resident.pins > 0) return;
      if (resident.isLeaving) this.#letGo(resident);
      for (const wake of this.#waiting.splice(0)) wake();
    };
    return { key, name, version, digest, release };
  }

  async #loadAndLease(listed: Listed, version: string, id: string): Promise<Lease> {
    // Between its loading and this hold it may have had to leave for another: then it is loaded again.
    for (let tries = 0; tries < 3; tries++) {
      const resident = this.#resident.get(id) ?? (await this.#loadOnce(listed, version, id));
      if (!resident.isGone) return this.#lease(id, resident);
    }
    throw noRoom();
  }

  #loadOnce(listed: Listed, version: string, id: string): Promise<Resident> {
    const loading = this.#loading.get(id);
    if (loading !== undefined) return loading;
    const made = this.#loadNew(listed, version, id).finally(() => this.#loading.delete(id));
    this.#loading.set(id, made);
    return made;
  }

  async #loadNew({ name, versions }: Listed, version: string, id: string): Promise<Resident> {
    const place = versions.get(version);
    if (place === undefined) {
      throw new ServeError(
        404,
        `${labelOf(name)} has no version ${JSON.stringify(version)}; it has ${[...versions.keys()].join(", ")}`,
      );
    }
    const begun = performance.now();
    const identity = await identify(this.#root, place).catch((error: unknown) =>
      this.#refuse(name, version, null, error),
    );
    if (this.#refusals.isKnown(id, identity.text)) throw this.#refusals.reasonOf(id);
    this.#refusals.forget(id);
    const { maxAdapterBytes } = this.#limits;
    if (identity.bytes > maxAdapterBytes) {
      const fault = new ServeError(
        400,
        `expected files of at most ${maxAdapterBytes} bytes, got ${identity.bytes}; see --max-adapter-size`,
      );
      this.#refuse(name, version, identity, fault);
    }
    const giveBack = await this.#reserve(identity.bytes);
    const key = `${id}#${this.#count++}`;
    const generation = this.#generation;
    try {
      const seen = await glance(this.#root, name, place);
      const source = await readPlace(place);
      const digest = digestOf(source);
      const { bytes } = await this.#loader.load(key, labelOf(name), source);
      if (generation !== this.#generation)
        throw new ServeError(503, "the workers are starting; try again", { retryAfter: 1 });
      const resident: Resident = {
        key,
        name,
        version,
        digest,
        bytes,
        identity: identity.text,
        seen,
        pins: 0,
        isLeaving: false,
        isGone: false,
      };
      giveBack();
      this.#replace(id, resident);
      this.#events.onLoad?.(name, version, (performance.now() - begun) / 1000);
      return resident;
    } catch (error) {
      return this.#refuse(name, version, identity, error);
    } finally {
      giveBack();
    }
  }

  /**
   * Keeps room for an adapter until the function that it returns is called, waiting a while where all that is resident is in
   * use. Throws ServeError 503.
   */
  async #reserve(bytes: number): Promise<() => void> {
    const end = performance.now() + maxWait;
    while (!this.#makeRoom(bytes)) {
      const left = end - performance.now();
      if (left <= 0) throw noRoom();
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    this.#reservedBytes += bytes;
    this.#reservedCount++;
    let isKept = true;
    return () => {
      if (!isKept) return;
      isKept = false;
      this.#reservedBytes -= bytes;
      this.#reservedCount--;
    };
  }

  /** Throws what clients are told of an error of loading. */
  #refuse(name: string, version: string, identity: Identity | null, error: unknown): never {
    const { told, isOfFiles } = this.#refusals.add(idOf(name, version), labelOf(name), identity, error);
    if (isOfFiles && told instanceof ServeError) this.#events.onFail?.(name, version, told.message);
    throw told;
  }

  /** The content of a version as it is now in the place of what is resident. */
  async #refresh(listed: Listed, version: string, { isAsked }: { isAsked: boolean }): Promise<void> {
    const id = idOf(listed.name, version);
    const place = listed.versions.get(version);
    const resident = this.#resident.get(id);
    if (place !== undefined && resident !== undefined) {
      const { text } = await identify(this.#root, place);
      if (text === resident.identity || (!isAsked && this.#refusals.isKnown(id, text))) return;
    }
    await this.#loadOnce(listed, version, id);
  }

  #replace(id: string, resident: Resident): void {
    this.#dismissId(id);
    this.#resident.set(id, resident);
    this.#bytes += resident.bytes;
    // A B of another scale than the graph's, or 16 bits widened, take more than the files do.
    this.#makeRoom(0, resident);
  }

  /**
   * Lets go of what was not used for longest until another adapter of `bytes` fits, or, given one, until those that are there
   * with it do. Returns whether they fit now. Throws ServeError 400 for one that never will.
   */
  #makeRoom(bytes: number, added?: Resident): boolean {
    const { maxMemory, maxResident } = this.#limits;
    if (bytes > maxMemory) {
      throw new ServeError(
        400,
        `expected at most ${maxMemory} bytes, which is all that adapters may take, got ${bytes}; see --memory`,
      );
    }
    const isOver = (): boolean => {
      const count = this.#resident.size + (added === undefined ? this.#reservedCount + 1 : 0);
      return count > maxResident || this.#bytes + this.#reservedBytes + bytes > maxMemory;
    };
    for (const [id, resident] of isOver() ? this.#resident : []) {
      if (resident.pins > 0 || resident === added) continue;
      this.#dismiss(id, resident);
      this.#events.onEvict?.(resident.name, resident.version);
      if (!isOver()) break;
    }
    return !isOver();
  }

  #dismissId(id: string): void {
    const resident = this.#resident.get(id);
    if (resident !== undefined) this.#dismiss(id, resident);
  }

  #dismiss(id: string, resident: Resident): void {
    if (this.#resident.get(id) === resident) this.#resident.delete(id);
    resident.isLeaving = true;
    if (resident.pins === 0) this.#letGo(resident);
  }

  #letGo(resident: Resident): void {
    if (resident.isGone) return;
    resident.isGone = true;
    this.#bytes -= resident.bytes;
    void this.#loader.unload(resident.key).catch(() => undefined);
  }
}

function idOf(name: string, version: string): string {
  return `${name}@${version}`;
}

/** What messages call an adapter. */
function labelOf(name: string): string {
  return `adapter ${JSON.stringify(name)}`;
}

function unknown(name: string): ServeError {
  return new ServeError(404, `there is no model or adapter ${JSON.stringify(name)}`);
}

function noRoom(): ServeError {
  return new ServeError(503, "the adapters that are in use leave no room for another; try again, or see --memory", {
    retryAfter: 1,
  });
}

function digestOf({ files }: AdapterSource): string {
  const hash = createHash("sha256");
  for (const [name, bytes] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(`${name} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest("hex").slice(0, 16);
}
