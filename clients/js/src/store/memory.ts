/** A store that forgets: for tests, for kiosks, and where an application wants nothing to be left on the machine. */

import type { Saved } from "../replica.js";
import { meanwhile, Replica } from "../replica.js";
import type { Commit, Header, Loaded, Store } from "./store.js";

export function memoryStore(): Store {
  return new MemoryStore();
}

class MemoryStore implements Store {
  #header: Header | undefined;
  #kept: Replica | undefined;

  load(first: Saved): Promise<Loaded> {
    this.#kept ??= new Replica(first);
    this.#header ??= { meta: first.meta, revision: 0, epoch: 0 };
    return Promise.resolve({ ...this.#kept.saved(), ...this.#header });
  }

  async commit(decide: (header: Header) => Commit | undefined): Promise<Header | undefined> {
    if (this.#header === undefined) throw new Error("A store is loaded first.");
    const commit = decide(this.#header);
    if (commit === undefined) return undefined;
    this.#header = after(this.#header, commit);
    this.#kept?.absorb(commit.change);
    return this.#header;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** The header once a commit is made. */
export function after(header: Header, commit: Commit): Header {
  return {
    meta: meanwhile(header.meta, commit.change),
    revision: header.revision + 1,
    epoch: commit.epoch ?? header.epoch,
  };
}
