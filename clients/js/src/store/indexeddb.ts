/**
 * A store in a browser's IndexedDB, shared by all tabs of one origin.
 *
 * A commit is one read-write transaction over everything, so commits of several tabs come one after the other. What
 * has mutations in it is written with strict durability: a mutation's number must never be used twice, and it may
 * have reached the server before a power failure.
 */

import { RoostError } from "../errors.js";
import type { Change, Entry, Saved, Stored } from "../replica.js";
import { after } from "./memory.js";
import type { Commit, Header, Loaded, Store } from "./store.js";

const FORMAT = 1;
const TABLES = ["header", "documents", "queue"];
const HEADER = 0;

/** `name` is the database's, and what tabs have in common. */
export function indexedDbStore(name: string): Store {
  return new IndexedDbStore(name);
}

/** Delete a store's database, and all it has. */
export async function deleteIndexedDb(name: string): Promise<void> {
  await settled(indexedDB.deleteDatabase(name));
}

class IndexedDbStore implements Store {
  readonly shared: string;
  #opened: Promise<IDBDatabase> | undefined;

  constructor(name: string) {
    this.shared = name;
  }

  async load(first: Saved): Promise<Loaded> {
    return this.#within("readwrite", async (transaction) => {
      const [header, documents, queue] = await Promise.all([
        settled(transaction.objectStore("header").get(HEADER) as IDBRequest<Header | undefined>),
        settled(transaction.objectStore("documents").getAll() as IDBRequest<Stored[]>),
        settled(transaction.objectStore("queue").getAll() as IDBRequest<Entry[]>),
      ]);
      if (header !== undefined) return { ...header, documents, queue };
      const fresh: Header = { meta: first.meta, revision: 0, epoch: 0 };
      transaction.objectStore("header").put(fresh, HEADER);
      return { ...first, ...fresh };
    });
  }

  async commit(decide: (header: Header) => Commit | undefined): Promise<Header | undefined> {
    return this.#within("readwrite", async (transaction) => {
      const headers = transaction.objectStore("header");
      const header = await settled(headers.get(HEADER) as IDBRequest<Header | undefined>);
      if (header === undefined) throw new RoostError("storage", "The browser has deleted this device's data.");
      const commit = decide(header);
      if (commit === undefined) return undefined;
      const next = after(header, commit);
      headers.put(next, HEADER);
      write(transaction, commit.change);
      return next;
    });
  }

  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    (await opened?.catch(() => undefined))?.close();
  }

  async #within<T>(mode: IDBTransactionMode, work: (transaction: IDBTransaction) => Promise<T>): Promise<T> {
    try {
      const transaction = (await this.#database()).transaction(TABLES, mode, { durability: "strict" });
      const done = completed(transaction);
      try {
        const made = await work(transaction);
        await done;
        return made;
      } catch (error) {
        done.catch(() => undefined);
        abort(transaction);
        throw error;
      }
    } catch (error) {
      if (error instanceof RoostError) throw error;
      // A browser may have closed the database on its own; the next transaction opens it again.
      await this.close();
      throw new RoostError("storage", `IndexedDB: ${String(error)}`, { cause: error });
    }
  }

  #database(): Promise<IDBDatabase> {
    this.#opened ??= open(this.shared, () => (this.#opened = undefined));
    return this.#opened;
  }
}

function write(transaction: IDBTransaction, change: Change): void {
  const documents = transaction.objectStore("documents");
  const queue = transaction.objectStore("queue");
  if (change.allDocuments) documents.clear();
  if (change.allEntries) queue.clear();
  for (const document of change.documents ?? []) {
    if (document.value === undefined) documents.delete([document.collection, document.key]);
    else documents.put(document);
  }
  for (const number of change.forgotten ?? []) queue.delete(number);
  for (const entry of change.entries ?? []) queue.put(entry);
}

async function open(name: string, closed: () => void): Promise<IDBDatabase> {
  const request = indexedDB.open(name, FORMAT);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("header");
    request.result.createObjectStore("documents", { keyPath: ["collection", "key"] });
    request.result.createObjectStore("queue", { keyPath: "mutation.number" });
  };
  const database = await settled(request);
  database.onclose = closed;
  // Another tab deletes or upgrades it: to hold on would stop that.
  database.onversionchange = () => {
    closed();
    database.close();
  };
  return database;
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error as DOMException);
  });
}

function completed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("aborted", "AbortError"));
  });
}

function abort(transaction: IDBTransaction): void {
  try {
    transaction.abort();
  } catch {
    // It has ended already.
  }
}
