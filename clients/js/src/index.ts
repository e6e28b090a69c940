/**
 * Roost on a device: one user's state, read at once, edited offline, synced when there is a network.
 *
 *     const roost = await open({ url, user: "ada", token });
 *     const carts = roost.collection<Cart>("carts");
 *     await carts.inc("main", "/apples", 2);   // shown at once; saved on this device when it resolves
 *     carts.get("main");                       // { apples: 2 }
 *     carts.subscribe((documents) => render(documents));
 */

import type { Token } from "./connection.js";
import { Device } from "./device.js";
import type { Draft } from "./draft.js";
import { Editor } from "./editor.js";
import { RoostError } from "./errors.js";
import type { Result } from "./protocol.js";
import { INBOX } from "./protocol.js";
import type { Document } from "./replica.js";
import { blank } from "./replica.js";
import type { SocketClass } from "./socket.js";
import type { Status } from "./status.js";
import { indexedDbStore } from "./store/indexeddb.js";
import { memoryStore } from "./store/memory.js";
import type { Store } from "./store/store.js";

export type { Token } from "./connection.js";
export type { Path } from "./editor.js";
export { Editor, Edits } from "./editor.js";
export { RoostError } from "./errors.js";
export type { Json } from "./json.js";
export type { Presence, Result } from "./protocol.js";
export type { Document } from "./replica.js";
export type { Status } from "./status.js";
export { deleteIndexedDb, indexedDbStore } from "./store/indexeddb.js";
export { memoryStore } from "./store/memory.js";
export type { Commit, Header, Loaded, Store } from "./store/store.js";

export interface Options {
  /** Where Roost is: `https://roost.example.com`. */
  readonly url: string;
  readonly user: string;
  /** A token, or what gets one: asked again whenever one is about to end or was not accepted. */
  readonly token: Token;
  /** Where the replica is kept: by default IndexedDB, or memory where there is none. */
  readonly store?: Store;
  /** Hold these collections only. All tabs of one store hold the same. */
  readonly collections?: readonly string[];
  /** This device's name, when its store is new; by default a random one. No two devices of a user share one. */
  readonly device?: string;
  /** Connect at once; the default. */
  readonly connect?: boolean;
  /** What to use for a WebSocket where there is no global one; null for none, so long polls. */
  readonly WebSocket?: SocketClass | null;
  readonly fetch?: typeof fetch;
}

/** What the server set aside, in a conflict or because it never can take effect. */
export interface Conflict {
  readonly id: string;
  readonly at: string;
  readonly policy: "cas" | "lww" | "merge" | "siblings";
  readonly outcome: "merged" | "refused";
  readonly collection: string;
  readonly key: string;
  readonly device?: string | null;
  readonly mutation?: number | null;
  readonly base?: number;
  readonly code?: string;
  readonly detail?: string;
  readonly kept: { readonly version: number; readonly value: unknown };
  readonly lost: { readonly version?: number; readonly value?: unknown; readonly edits?: readonly unknown[] };
}

/** An edit that is saved on this device. */
export class Saved {
  readonly #answer: () => Promise<Result | undefined>;

  constructor(answer: () => Promise<Result | undefined>) {
    this.#answer = answer;
  }

  /** What the server made of it, once it has been asked; undefined where nothing was to be done. */
  answer(): Promise<Result | undefined> {
    return this.#answer();
  }
}

/** The replica of one user's state, from the store at once; it connects behind. */
export async function open(options: Options): Promise<Roost> {
  const url = options.url.replace(/\/+$/, "");
  const { user, token, device = `device-${random()}` } = options;
  const connected = options.connect ?? true;
  const store = options.store ?? defaultStore(`roost ${url} ${user}`);
  const started = await Device.start(
    {
      url,
      user,
      token,
      fetch: options.fetch ?? ((input, init) => fetch(input, init)),
      WebSocket: options.WebSocket === null ? undefined : (options.WebSocket ?? globalThis.WebSocket),
      store,
      collections: options.collections && new Set([...options.collections, INBOX]),
      first: blank(device),
      newName: () => `${device.slice(0, 50)}-${random().slice(0, 8)}`,
    },
    connected,
  );
  return new Roost(started, user);
}

/** One user's state on this device. */
export class Roost {
  readonly user: string;
  readonly #device: Device;
  readonly #collections = new Map<string, Collection<unknown>>();

  /** See `open`. */
  constructor(device: Device, user: string) {
    this.#device = device;
    this.user = user;
  }

  /** The name under which the server knows this device. */
  get device(): string {
    return this.#device.device;
  }

  /** How it is doing. The same object until something changes. */
  get status(): Status {
    return this.#device.status;
  }

  /** Hear of every change of the status. Returns what ends it. */
  subscribe(listener: (status: Status) => void): () => void {
    return this.#device.listeners.add("status", () => listener(this.#device.status));
  }

  /** A collection; the same object for the same name. `T` is what the application knows its values to be. */
  collection<T = unknown>(name: string): Collection<T> {
    let collection = this.#collections.get(name);
    if (collection === undefined) {
      collection = new Collection<unknown>(name, this.#device, (make) => this.#edit(make));
      this.#collections.set(name, collection);
    }
    return collection as Collection<T>;
  }

  /** The names of all collections that have a document here. */
  collections(): string[] {
    return this.#device.replica.names();
  }

  /** Several changes in one step: all or none, here and on the server. What `make` reads has what it wrote. */
  transaction(make: (transaction: Transaction) => void): Promise<Saved> {
    return this.#edit((draft) => make(new Transaction(draft)));
  }

  /**
   * Resolves once the server has answered every edit and this device has read the log to its end. Offline it waits.
   * Throws what stopped the connection for good, `closed`, or the signal's reason.
   */
  synced(options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options;
    const device = this.#device;
    return new Promise((resolve, reject) => {
      const ends: (() => void)[] = [];
      const end = (settle: () => void): void => {
        for (const each of ends.splice(0)) each();
        settle();
      };
      const look = (): void => {
        const { connection, error } = device.status;
        const left = device.replica.queue.size + device.replica.unsaved.length;
        if (device.closed) end(() => reject(new RoostError("closed", "This replica is closed.")));
        else if (signal?.aborted) end(() => reject(signal.reason as Error));
        else if (connection === "stopped") {
          end(() =>
            reject(new RoostError(error?.code ?? "unavailable", error?.detail ?? "The connection has stopped.")),
          );
        } else if (connection === "live" && left === 0) end(resolve);
      };
      ends.push(device.listeners.add("status", look), device.listeners.add("queue", look));
      signal?.addEventListener("abort", look);
      ends.push(() => signal?.removeEventListener("abort", look));
      look();
    });
  }

  /** The inbox: what conflicts have set aside, oldest first. */
  conflicts(): readonly Conflict[] {
    return this.collection<Conflict>(INBOX)
      .list()
      .map(({ key, value }) => ({ ...value, id: key }));
  }

  /** Take a conflict out of the inbox. */
  dismiss(id: string): Promise<Saved> {
    return this.collection(INBOX).delete(id);
  }

  /** Connect (again), in all tabs of this store. */
  connect(): void {
    this.#device.connect(true);
  }

  /** Work offline until `connect`, in all tabs of this store. */
  disconnect(): void {
    this.#device.connect(false);
  }

  /** Let go of the connection and the store. What was saved stays, and is pushed next time. */
  close(): Promise<void> {
    return this.#device.close();
  }

  async #edit(make: (draft: Draft) => void): Promise<Saved> {
    const { clock } = await this.#device.edit(make);
    return new Saved(() => (clock === undefined ? Promise.resolve(undefined) : this.#device.answer(clock)));
  }
}

/** A collection of documents. Reading is immediate; values are frozen, and the same objects until they change. */
export class Collection<T> extends Editor<T, Promise<Saved>> {
  readonly #device: Device;

  /** See `Roost.collection`. */
  constructor(name: string, device: Device, run: (make: (draft: Draft) => void) => Promise<Saved>) {
    super(name, run);
    this.#device = device;
  }

  /** A document's value; undefined where there is none. */
  get(key: string): T | undefined {
    return this.document(key)?.value;
  }

  /** A document: its value, version, siblings, and whether it has edits that the server has not shown yet. */
  document(key: string): Document<T> | undefined {
    return this.#device.replica.document(this.name, key) as Document<T> | undefined;
  }

  /** All documents, by key. */
  list(): readonly Document<T>[] {
    return this.#device.replica.documents(this.name) as readonly Document<T>[];
  }

  /** Hear of every change of any document. Returns what ends it. */
  subscribe(listener: (documents: readonly Document<T>[]) => void): () => void {
    return this.#device.listeners.add(this.name, () => listener(this.list()));
  }

  /** Hear of every change of one document. Returns what ends it. */
  watch(key: string, listener: (document: Document<T> | undefined) => void): () => void {
    return this.#device.listeners.add(`${this.name}/${key}`, () => listener(this.document(key)));
  }
}

/** Changes in the making, see `Roost.transaction`. */
export class Transaction {
  readonly #draft: Draft;

  constructor(draft: Draft) {
    this.#draft = draft;
  }

  collection<T = unknown>(name: string): TransactionCollection<T> {
    return new TransactionCollection<T>(name, this.#draft);
  }
}

/** A collection within a transaction. */
export class TransactionCollection<T> extends Editor<T, void> {
  readonly #draft: Draft;

  constructor(name: string, draft: Draft) {
    super(name, (make) => make(draft));
    this.#draft = draft;
  }

  /** A document's value with what this transaction did to it. */
  get(key: string): T | undefined {
    return this.#draft.value(this.name, key) as T | undefined;
  }
}

function defaultStore(name: string): Store {
  return typeof indexedDB === "undefined" ? memoryStore() : indexedDbStore(name);
}

/** 16 characters that nobody else has. */
function random(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => (byte % 36).toString(36)).join("");
}
