// Residency: bounds, least recent use, what is held, what is replaced, over a loader that only counts.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { LowrankError } from "../errors.ts";
import { twoLayers } from "../lora/testing/models.ts";
import type { AdapterSource } from "./engine.ts";
import { AdapterStore, type Lease, type StoreLimits } from "./store.ts";
import { adapterFor, type Home, makeHome } from "./testing/fixture.ts";

class Counting {
  readonly loaded = new Map<string, AdapterSource>();
  readonly order: string[] = [];
  /** Resolves loads when it is there. */
  gate: Promise<void> | undefined;
  async load(key: string, _label: string, source: AdapterSource): Promise<{ bytes: number }> {
    await this.gate;
    if (this.loaded.has(key)) throw new Error("twice");
    if (source.files.get("adapter_model.safetensors")!.length < 20) throw new LowrankError("adapter", "torn");
    this.loaded.set(key, source);
    this.order.push(`+${key.split("#")[0]}`);
    return { bytes: 1000 };
  }
  async unload(key: string): Promise<void> {
    if (!this.loaded.delete(key)) throw new Error("not there");
    this.order.push(`-${key.split("#")[0]}`);
  }
}

const model = twoLayers();
let home: Home;
beforeAll(async () => {
  home = await makeHome({ a: adapterFor(model, 1), b: adapterFor(model, 2), c: adapterFor(model, 3) });
});

const wide: StoreLimits = { maxMemory: 100_000, maxResident: 100, maxAdapterBytes: 50_000 };

async function open(
  limits: Partial<StoreLimits> = {},
  from: Home = home,
): Promise<{ store: AdapterStore; loader: Counting }> {
  const loader = new Counting();
  return { store: await AdapterStore.open(from.adapters, { loader, limits: { ...wide, ...limits } }), loader };
}

const use = async (store: AdapterStore, name: string): Promise<Lease> => {
  const lease = await store.acquire(name);
  lease.release();
  return lease;
};

describe("the store", () => {
  it("loads once for many that ask at once, and then at once", async () => {
    const { store, loader } = await open();
    const leases = await Promise.all(Array.from({ length: 20 }, () => store.acquire("a")));
    expect(loader.order).toEqual(["+a@1"]);
    expect(new Set(leases.map(({ key }) => key)).size).toBe(1);
    expect(store.acquire("a")).not.toBeInstanceOf(Promise);
    expect(store.resident).toEqual({ count: 1, bytes: 1000 });
  });

  it("lets go of what was not used for longest", async () => {
    const { store, loader } = await open({ maxResident: 2 });
    for (const name of ["a", "b", "a", "c"]) await use(store, name);
    expect(loader.order).toEqual(["+a@1", "+b@1", "-b@1", "+c@1"]);
    expect(store.resident.count).toBe(2);
  });

  it("never lets go of what is held, and says so when that leaves no room", async () => {
    const { store, loader } = await open({ maxResident: 2 });
    const [a, b] = [await store.acquire("a"), await store.acquire("b")];
    await expect(store.acquire("c")).rejects.toMatchObject({ status: 503, retryAfter: 1 });
    expect(loader.order).toEqual(["+a@1", "+b@1"]);
    b.release();
    b.release(); // Once counts.
    await use(store, "c");
    expect(loader.order).toEqual(["+a@1", "+b@1", "-b@1", "+c@1"]);
    a.release();
    await use(store, "b");
    expect(loader.order.slice(4)).toEqual(["-a@1", "+b@1"]);
  });

  it("waits for room that others are about to leave", async () => {
    const { store, loader } = await open({ maxResident: 1 });
    const a = await store.acquire("a");
    const asked = Promise.all([use(store, "b"), use(store, "c"), use(store, "b")]);
    setTimeout(() => a.release(), 30);
    await asked;
    expect(loader.order.slice(0, 2)).toEqual(["+a@1", "-a@1"]);
    expect(loader.loaded.size).toBe(1);
    expect(store.resident).toEqual({ count: 1, bytes: 1000 });
  });

  it("keeps within its memory, by the size of the files before they are read", async () => {
    const { store, loader } = await open({ maxMemory: 3000 });
    for (const name of ["a", "b", "c"]) await use(store, name);
    expect(store.resident.bytes).toBeLessThanOrEqual(3000);
    expect(loader.loaded.size).toBe(store.resident.count);
    const tiny = await open({ maxMemory: 100 });
    await expect(tiny.store.acquire("a")).rejects.toMatchObject({
      status: 400,
      message: expect.stringContaining("--memory"),
    });
    expect(tiny.loader.order).toEqual([]);
  });

  it("replaces what has changed: who holds the old content keeps it, who comes later gets the new", async () => {
    const own = await makeHome({ a: adapterFor(model, 1) });
    const { store, loader } = await open({}, own);
    const old = await store.acquire("a");
    await own.write("a", adapterFor(model, 9));
    await store.refresh();
    const fresh = await store.acquire("a");
    expect(fresh.digest).not.toBe(old.digest);
    expect(loader.loaded.size).toBe(2);
    old.release();
    expect([...loader.loaded.keys()]).toEqual([fresh.key]);
    expect(store.resident).toEqual({ count: 1, bytes: 1000 });
    await store.refresh();
    expect(loader.order).toEqual(["+a@1", "+a@1", "-a@1"]);
  });

  it("keeps the old content when the new one is damaged, and takes the next one", async () => {
    const own = await makeHome({ a: adapterFor(model, 1) });
    const { store, loader } = await open({}, own);
    const { digest } = await use(store, "a");
    await writeFile(join(own.adapters, "a", "adapter_model.safetensors"), "torn");
    await store.refresh();
    expect((await use(store, "a")).digest).toBe(digest);
    await own.write("a", adapterFor(model, 9));
    await store.refresh();
    expect((await use(store, "a")).digest).not.toBe(digest);
    expect(loader.loaded.size).toBe(1);
  });

  it("unloads when the last holder has gone", async () => {
    const { store, loader } = await open();
    const held = await store.acquire("a");
    store.unload("a");
    expect(() => store.acquire("a")).toThrow(expect.objectContaining({ status: 404 }));
    expect(loader.loaded.size).toBe(1);
    held.release();
    expect(loader.loaded.size).toBe(0);
    await store.load("a");
    expect(loader.loaded.size).toBe(1);
  });

  it("serves the greatest version, or the one that serving.json names", async () => {
    const own = await makeHome({ a: adapterFor(model, 1) });
    await own.write("a/2", adapterFor(model, 2));
    await own.write("a/10", adapterFor(model, 3));
    await writeFile(join(own.adapters, "notes.txt"), "no adapter");
    const first = await open({}, own);
    expect(first.store.names).toEqual(["a"]);
    expect(first.store.versionsOf("a")).toEqual({ versions: ["1", "2", "10"], current: "10" });
    await writeFile(join(own.adapters, "a", "serving.json"), '{"version":"2"}');
    await first.store.refreshOne("a");
    expect((await use(first.store, "a")).version).toBe("2");
    expect((await first.store.acquire("a", "10")).version).toBe("10");
    await expect(first.store.acquire("a", "3")).rejects.toMatchObject({ status: 404 });
  });

  it("begins anew when the engines were replaced", async () => {
    const { store, loader } = await open();
    const held = await store.acquire("a");
    loader.loaded.clear();
    store.forget();
    held.release();
    await use(store, "a");
    expect(loader.order).toEqual(["+a@1", "+a@1"]);
    expect(store.resident).toEqual({ count: 1, bytes: 1000 });
  });
});
