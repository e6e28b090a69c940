/**
 * What a replica's memory must be able to do, wherever it is kept.
 *
 * A store is loaded once and then told of changes. Each commit is one transaction, and decides within it, so that
 * several tabs can share one store: whoever appends a mutation gives it the next number there and then, and whoever
 * has lost the connection to another tab (`epoch`) finds out before anything is written.
 */

import type { Change, Meta, Saved } from "../replica.js";

export interface Header {
  readonly meta: Meta;
  /** Counts the commits. */
  readonly revision: number;
  /** Counts the tabs that have held the connection. */
  readonly epoch: number;
}

export interface Loaded extends Saved, Header {}

/** A change, or a new epoch, to be written. */
export interface Commit {
  readonly change: Change;
  readonly epoch?: number;
}

export interface Store {
  /** The name by which other tabs know the same store; left out where nobody shares it. */
  readonly shared?: string;

  /** Everything. A store that is new begins as `first`. */
  load(first: Saved): Promise<Loaded>;

  /**
   * Write what `decide` makes of the header as it is now: all of it or nothing, and durable where it has entries.
   * `decide` may be called more than once. Resolves to the new header, or to undefined where it decided on nothing.
   */
  commit(decide: (header: Header) => Commit | undefined): Promise<Header | undefined>;

  close(): Promise<void>;
}
