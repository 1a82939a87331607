// What an address cannot hold, in IndexedDB: adapters, examples, a stopped run. Where the browser has none (private windows of
// some), the page works without, and forgets on reload.
const databaseName = "lowrank-playground";
const storeName = "state";

let opening: Promise<IDBDatabase | null> | undefined;

function openDatabase(): Promise<IDBDatabase | null> {
  opening ??= new Promise((resolve) => {
    if (!("indexedDB" in globalThis)) return resolve(null);
    const request = indexedDB.open(databaseName, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(storeName);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
    request.onblocked = () => resolve(null);
  });
  return opening;
}

/** What was kept under a name; undefined where nothing was. */
export async function recall(name: string): Promise<unknown> {
  const database = await openDatabase();
  if (database === null) return undefined;
  return new Promise((resolve) => {
    const request = database.transaction(storeName).objectStore(storeName).get(name);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(undefined);
  });
}

/** Keeps a value; undefined lets go of what was kept. Returns whether it could. */
export async function keep(name: string, value: unknown): Promise<boolean> {
  const database = await openDatabase();
  if (database === null) return false;
  return new Promise((resolve) => {
    const transaction = database.transaction(storeName, "readwrite");
    const store = transaction.objectStore(storeName);
    if (value === undefined) store.delete(name);
    else store.put(value, name);
    transaction.oncomplete = () => resolve(true);
    transaction.onerror = () => resolve(false);
    transaction.onabort = () => resolve(false);
  });
}
