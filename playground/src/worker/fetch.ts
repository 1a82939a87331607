// The page's files, fetched with progress and kept by the Cache API under their hash: a second visit downloads nothing, and a
// file that was made anew is never mistaken for the one before.
import type { About, LoadProgress } from "../protocol.ts";

const cacheName = "lowrank-playground";

/** playground.json; it is small, and says which versions of the others there are. */
export async function fetchAbout(): Promise<About> {
  return (await checked(await fetch(address("playground.json"), { cache: "no-cache" }))).json() as Promise<About>;
}

/**
 * A file that `about` lists, from the cache or the server, with its SHA-256 checked.
 *
 * @param tell is told how much of it is there, where it is downloaded.
 */
export async function fetchKept(
  about: About,
  name: string,
  tell: (progress: LoadProgress) => void = () => undefined,
): Promise<Uint8Array<ArrayBuffer>> {
  const expected = about.files[name];
  if (expected === undefined) throw new Error(`internal: playground.json lists no ${name}`);
  const url = address(`${name}?v=${expected.sha256.slice(0, 16)}`);
  // Browsers keep no cache for pages that were not loaded securely, and none when the disk is full: then without.
  const cache = await openCache();
  const known = await cache?.match(url);
  if (known !== undefined) {
    const bytes = new Uint8Array(await known.arrayBuffer());
    if ((await sha256(bytes)) === expected.sha256) return bytes;
    await cache?.delete(url);
  }
  const bytes = await download(url, expected.bytes, tell);
  const hash = await sha256(bytes);
  if (hash !== null && hash !== expected.sha256) {
    throw new Error(`${name}: the server sent another file than playground.json lists; reload the page`);
  }
  await cache?.put(url, new Response(bytes)).catch(() => undefined);
  return bytes;
}

/** Lets go of what an earlier version of the page has kept. */
export async function forgetOldFiles(about: About): Promise<void> {
  const cache = await openCache();
  if (cache === null) return;
  const current = new Set(
    Object.entries(about.files).map(([name, { sha256: hash }]) => address(`${name}?v=${hash.slice(0, 16)}`)),
  );
  for (const request of await cache.keys()) if (!current.has(request.url)) await cache.delete(request);
}

/** What a gzip file holds. */
export async function unzipped(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function address(path: string): string {
  return new URL(`../${path}`, self.location.href).href;
}

function openCache(): Promise<Cache | null> {
  return "caches" in self ? caches.open(cacheName).catch(() => null) : Promise.resolve(null);
}

async function download(url: string, total: number, tell: (progress: LoadProgress) => void) {
  const { body } = await checked(await fetch(url));
  if (body === null) throw new Error(`${url}: the server sent nothing; reload the page`);
  const bytes = new Uint8Array(total);
  let loaded = 0;
  for await (const chunk of body) {
    if (loaded + chunk.length > total) throw new Error(`${url}: the server sent more than ${total} bytes`);
    bytes.set(chunk, loaded);
    loaded += chunk.length;
    tell({ loaded, total });
  }
  if (loaded < total)
    throw new Error(`${url}: the download broke off after ${loaded} of ${total} bytes; reload the page`);
  return bytes;
}

async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  throw new Error(`${response.url}: the server answered ${response.status}; run npm run playground again`);
}

/** Null where the page was not loaded securely, and the browser computes none. */
async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string | null> {
  if (!("subtle" in crypto)) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
