/**
 * One user's state on a device, as a value: what was read of the log, and on top of it what this device did.
 *
 * No I/O, no clock, no chance; the same rules as `roost/sync/replica.py`, and the same test vectors. Every input
 * (events, answers, a snapshot, an edit) becomes a `Change`, which says what is different afterwards; `absorb` makes
 * it so. The same change is what a store saves and what other tabs absorb, so all of them are the same replica. An
 * edit has no number until a store has given it one, as several tabs may edit at once; it is shown all the same.
 */

import { Draft } from "./draft.js";
import type { Value } from "./edits.js";
import { ERASED } from "./errors.js";
import type { Json } from "./json.js";
import { compare, freeze } from "./json.js";
import type { Event, Mutation, Op, Result, Sibling } from "./protocol.js";
import { microseconds, PUSH_BYTES_MAX, PUSH_MUTATIONS_MAX, TIME_MAX } from "./protocol.js";
import { bytesOf, follows, idOf, NO_SIBLINGS, performed, read } from "./reading.js";

/** What the device knows of itself: its name, its last mutation's number, how far it has read, the highest clock. */
export interface Meta {
  readonly device: string;
  readonly number: number;
  /** null before anything was read, and when none of it is to be relied on. */
  readonly cursor: number | null;
  readonly clock: number;
  /** What it is narrowed to; left out for all collections. */
  readonly collections?: readonly string[] | undefined;
}

/** A document as it was read; without a `value` it is gone. `siblings` are the values beside its own. */
export interface Stored {
  readonly collection: string;
  readonly key: string;
  readonly version: number;
  readonly value?: Json;
  readonly siblings?: readonly Sibling[];
}

/** A mutation that the log, as far as it was read, does not show yet. `seen`: the ops whose events were read. */
export interface Entry {
  readonly mutation: Mutation;
  readonly result?: Result;
  readonly seen?: readonly number[];
}

/** A mutation that has no number yet. */
export type Unsaved = Omit<Mutation, "number">;

export interface Saved {
  readonly meta: Meta;
  readonly documents: readonly Stored[];
  readonly queue: readonly Entry[];
}

/** What is different. `allDocuments`, `allEntries`: nothing of what was there before remains. */
export interface Change {
  readonly meta?: Partial<Meta>;
  readonly documents?: readonly Stored[];
  readonly allDocuments?: boolean;
  readonly entries?: readonly Entry[];
  readonly allEntries?: boolean;
  readonly forgotten?: readonly number[];
}

/** What the device has to do: see `tests/vectors/README.md`. */
export type Next = "push" | "resume" | "refetch" | "rename" | "wait" | "forget";

/** What came of an input: a change to save and absorb, then what to do, and answers the application was not told. */
export interface Outcome {
  readonly change?: Change;
  readonly next?: Next | undefined;
  readonly results?: readonly Result[];
}

/** A document as this device shows it. `version` is 0 where the server has none; `pending`: with edits of its own. */
export interface Document<T = Json> {
  readonly collection: string;
  readonly key: string;
  readonly value: T;
  readonly version: number;
  readonly pending: boolean;
  /** The values that stand beside `value`, oldest first; the next write resolves them. */
  readonly siblings: readonly T[];
}

/** What a document looks like, and the lowest base of the mutations that are shown on top of it. */
interface Shown {
  readonly document: Document | undefined;
  readonly base: number;
}

export type DocumentId = readonly [collection: string, key: string];

export class Replica {
  readonly collections: ReadonlySet<string> | undefined;
  #meta: Meta;
  #stored = new Map<string, Map<string, Stored>>();
  #queue = new Map<number, Entry>();
  #unsaved: Unsaved[] = [];
  /** The numbers of the pending mutations of each document, in order. */
  #touched = new Map<string, { id: DocumentId; numbers: Set<number> }>();
  /** What such documents, and others that were asked for, look like. */
  #shown = new Map<string, Shown>();
  #lists = new Map<string, readonly Document[]>();

  constructor(saved: Saved, collections?: Iterable<string>) {
    this.collections = collections === undefined ? undefined : new Set(collections);
    this.#meta = saved.meta;
    this.absorb({ documents: saved.documents, entries: saved.queue });
  }

  get meta(): Meta {
    return this.#meta;
  }

  get queue(): ReadonlyMap<number, Entry> {
    return this.#queue;
  }

  /** How many edits the server has not answered. */
  get unanswered(): number {
    let answered = 0;
    for (const { result } of this.#queue.values()) {
      if (result === undefined) break; // answers come in order
      answered += 1;
    }
    return this.#unsaved.length + this.#queue.size - answered;
  }

  get unsaved(): readonly Unsaved[] {
    return this.#unsaved;
  }

  /** All of it but what is unsaved. */
  saved(): Saved {
    const documents = [...this.#stored.values()].flatMap((byKey) => [...byKey.values()]);
    return { meta: this.#meta, documents, queue: [...this.#queue.values()] };
  }

  // What the application sees

  /** The document as the device shows it; undefined where there is none. The same object until it changes. */
  document(collection: string, key: string): Document | undefined {
    const id = idOf(collection, key);
    return this.#look(id, collection, key).document;
  }

  /** All documents of a collection, by key. The same array until one of them changes. */
  documents(collection: string): readonly Document[] {
    let list = this.#lists.get(collection);
    if (list === undefined) {
      const keys = new Set(this.#stored.get(collection)?.keys());
      for (const { id } of this.#touched.values()) if (id[0] === collection) keys.add(id[1]);
      for (const { ops } of this.#unsaved) for (const op of ops) if (op.collection === collection) keys.add(op.key);
      const shown = [...keys].sort(compare).map((key) => this.document(collection, key));
      list = Object.freeze(shown.filter((document) => document !== undefined));
      this.#lists.set(collection, list);
    }
    return list;
  }

  /** The names of all collections that have a document. */
  names(): string[] {
    const names = new Set(this.#stored.keys());
    for (const { id } of this.#touched.values()) names.add(id[0]);
    for (const { ops } of this.#unsaved) for (const op of ops) names.add(op.collection);
    return [...names].filter((name) => this.documents(name).length > 0).sort(compare);
  }

  // What the person does

  /** The beginning of a mutation: do something to it, then `add` it. */
  draft(): Draft {
    return new Draft({
      value: (collection, key) => this.document(collection, key)?.value,
      isPending: (collection, key) =>
        this.#touched.has(idOf(collection, key)) ||
        this.#unsaved.some(({ ops }) => ops.some((op) => op.collection === collection && op.key === key)),
      hasSiblings: (collection, key) => (this.document(collection, key)?.siblings.length ?? 0) > 0,
      collections: this.collections,
    });
  }

  /** Show a draft, made at the device's time (microseconds since 1970). Of an empty one nothing comes. */
  add(draft: Draft, now: number): Unsaved | undefined {
    if (draft.ops.length === 0) return undefined;
    draft.checkSize();
    const last = Math.max(this.#meta.clock, this.#unsaved.at(-1)?.clock ?? 0);
    const unsaved = {
      base: this.#baseOf(draft.ops),
      clock: Math.max(now <= TIME_MAX ? now : 0, last + 1),
      ops: Object.freeze([...draft.ops]),
    };
    for (const op of unsaved.ops) {
      const { collection, key } = op;
      const document = this.#shape(collection, key, performed(this.document(collection, key)?.value, op), true);
      this.#forgetShown(collection, key);
      this.#shown.set(idOf(collection, key), { document, base: unsaved.base });
    }
    this.#unsaved.push(unsaved);
    return unsaved;
  }

  /** Take back edits that could not be saved. */
  drop(edits: readonly Unsaved[]): DocumentId[] {
    this.#unsaved = this.#unsaved.filter((unsaved) => !edits.includes(unsaved));
    return this.#forgotten(edits.flatMap(({ ops }) => ops.map((op): DocumentId => [op.collection, op.key])));
  }

  /** The next mutations to push, in order, as many as one push may hold; again until answered. */
  outgoing(): Mutation[] {
    const batch: Mutation[] = [];
    let bytes = 0;
    for (const { mutation, result } of this.#queue.values()) {
      if (result !== undefined) continue;
      bytes += bytesOf(mutation);
      if (batch.length > 0 && (bytes > PUSH_BYTES_MAX || batch.length === PUSH_MUTATIONS_MAX)) break;
      batch.push(mutation);
    }
    return batch;
  }

  // What the server says

  /** The log's end, and the last mutation of this device that the server has answered. */
  welcome(seq: number, number: number): Outcome {
    // An answer to what was never done here: this is an old copy of itself, and its numbers are taken.
    if (number > this.#meta.number) return { next: "rename" };
    // An answer that the server no longer has: a backup was restored, and the log is another one, however far it goes.
    if (number < this.#answered()) return this.#mistrust(number + 1);
    return { next: seq < (this.#meta.cursor ?? 0) ? "refetch" : undefined };
  }

  /**
   * Read the next stretch of the log, from the cursor `after` up to `seq`. What was read before is passed over. Where
   * the server does not say from where, the events of a device that is not narrowed have to be without holes.
   */
  events(events: readonly Event[], seq: number, after?: number): Outcome {
    if (events.some((event) => event.kind === "erase")) return this.forget();
    const cursor = this.#meta.cursor ?? 0;
    const fresh = events.filter((event) => event.seq > cursor);
    const whole = after === undefined && this.collections === undefined;
    if ((after ?? 0) > cursor || !follows(cursor, fresh, seq, whole)) return { next: "resume" };
    const documents = new Map<string, Stored>();
    const entries = new Map<number, Entry>();
    let clock = this.#meta.clock;
    for (const event of fresh) {
      clock = Math.max(clock, event.clock ?? microseconds(event.at));
      const id = idOf(event.collection, event.key);
      const before = documents.get(id) ?? this.#stored.get(event.collection)?.get(event.key);
      if (before === undefined || before.version < event.seq) documents.set(id, read(event, before));
      if (event.device === this.#meta.device && typeof event.mutation === "number") {
        this.#see(id, event.mutation, entries);
      }
    }
    const meta = { cursor: Math.max(cursor, seq), clock };
    const forgotten = this.#settled(entries, meta.cursor);
    return { change: { meta, documents: [...documents.values()], entries: [...entries.values()], forgotten } };
  }

  /** The answers to a push. What is refused vanishes; what took effect is shown until it is read. */
  pushed(results: readonly Result[]): Outcome {
    const entries = new Map<number, Entry>();
    const told: Result[] = [];
    for (const result of results) {
      const entry = this.#queue.get(result.number);
      if (entry === undefined || entry.result !== undefined || entries.has(result.number)) continue;
      told.push(result);
      entries.set(result.number, { ...entry, result });
    }
    const left = this.#answered(entries) < this.#meta.number;
    const forgotten = this.#settled(entries, this.#meta.cursor ?? 0);
    return { change: { entries: [...entries.values()], forgotten }, results: told, next: left ? "push" : undefined };
  }

  /** A push was not taken. `expected` is the number that the server goes on from, where it names one. */
  refused(code: string, expected?: number): Outcome {
    if (code === ERASED) return this.forget();
    if (code === "cursor_ahead") return { next: "refetch" };
    // A number was given twice: by this replica, and by one that it was before, or that is a copy of it.
    if (code === "idempotency_key_reused") return { next: "rename" };
    if (code !== "mutation_gap" || expected === undefined) return { next: "wait" };
    if (expected > this.#answered()) return { next: "push" }; // nothing is lost: the push overtook an earlier one
    return this.#mistrust(expected);
  }

  /** A snapshot as of `seq` takes the place of all that was read; documents may be newer. `clock`: its highest. */
  snapshot(documents: readonly Stored[], seq: number, clock: number): Outcome {
    const entries = new Map<number, Entry>();
    const end = documents.reduce((highest, { version }) => Math.max(highest, version), seq);
    for (const [number, entry] of this.#queue) {
      // The log that it was based on, or answered in, is no more.
      const isLost = entry.result !== undefined && entry.result.seq > end;
      if (entry.mutation.base <= seq && !isLost) continue;
      const mutation = { ...entry.mutation, base: Math.min(entry.mutation.base, seq) };
      entries.set(number, isLost ? { mutation } : { ...entry, mutation });
    }
    const forgotten = this.#settled(entries, seq);
    const meta = { cursor: seq, clock: Math.max(clock, this.#meta.clock) };
    return { change: { meta, documents, allDocuments: true, entries: [...entries.values()], forgotten } };
  }

  /** Go on under a new name: what is not answered is numbered from 1, what is answered will be read. */
  rename(device: string): Outcome {
    const left = [...this.#queue.values()].filter((entry) => entry.result === undefined);
    const entries = left.map((entry, index) => ({ ...entry, mutation: { ...entry.mutation, number: index + 1 } }));
    const change = { meta: { device, number: entries.length }, entries, allEntries: true };
    return { change, next: entries.length > 0 ? "push" : undefined };
  }

  /** The user was erased: nothing is left but the device's name and clock, not even what was never pushed. */
  forget(): Outcome {
    const meta = { number: 0, cursor: null };
    return { change: { meta, allDocuments: true, allEntries: true }, next: "forget" };
  }

  // What becomes of it

  /**
   * Make a change so. `adopted` are the first of the unsaved edits, which are among its entries now: a document looks
   * the same with them. Returns the documents that may look different.
   */
  absorb(change: Change, adopted: number = 0): DocumentId[] {
    const touched: DocumentId[] = [];
    if (change.allDocuments) {
      for (const [collection, byKey] of this.#stored) for (const key of byKey.keys()) touched.push([collection, key]);
      this.#stored.clear();
    }
    if (change.allEntries) {
      for (const { id } of this.#touched.values()) touched.push(id);
      this.#touched.clear();
      this.#queue.clear();
    }
    for (const document of change.documents ?? []) {
      this.#store(document);
      touched.push([document.collection, document.key]);
    }
    for (const entry of change.entries ?? []) {
      const isNew = !this.#queue.has(entry.mutation.number);
      this.#queue.set(entry.mutation.number, entry);
      for (const op of entry.mutation.ops) {
        if (isNew) this.#touch(op, entry.mutation.number);
        if (!isNew || adopted === 0) touched.push([op.collection, op.key]);
      }
    }
    for (const number of change.forgotten ?? []) touched.push(...this.#untouch(number));
    this.#unsaved = this.#unsaved.slice(adopted);
    this.#meta = meanwhile(this.#meta, change);
    return this.#forgotten(touched);
  }

  /** The number of the last mutation of which an answer is known, with those of `entries`. */
  #answered(entries: ReadonlyMap<number, Entry> = new Map()): number {
    for (const [number, entry] of this.#queue) {
      if ((entries.get(number) ?? entry).result === undefined) return number - 1;
    }
    return this.#meta.number;
  }

  /**
   * The server has lost answers that it gave, from number `expected` on, and with them the end of its log. What the
   * device still has of those mutations is pushed again, after all documents were read anew.
   */
  #mistrust(expected: number): Outcome {
    const lost = [...this.#queue.values()].filter(({ mutation }) => mutation.number >= expected);
    const change = { meta: { cursor: null }, entries: lost.map(({ mutation }) => ({ mutation })) };
    return { change, next: this.#queue.has(expected) ? "refetch" : "rename" };
  }

  #see(id: string, upTo: number, entries: Map<number, Entry>): void {
    // In the log: this op, and all that this device did to the document before.
    for (const number of this.#touched.get(id)?.numbers ?? []) {
      if (number > upTo) break;
      const entry = entries.get(number) ?? this.#queue.get(number);
      if (entry === undefined) continue;
      const ops = entry.mutation.ops.flatMap((op, index) => (idOf(op.collection, op.key) === id ? [index] : []));
      const seen = new Set([...(entry.seen ?? []), ...ops]);
      if (seen.size > (entry.seen?.length ?? 0))
        entries.set(number, { ...entry, seen: [...seen].sort((a, b) => a - b) });
    }
  }

  /** Numbers of what can be let go of: refused, or answered and read. Takes them out of `entries`. */
  #settled(entries: Map<number, Entry>, cursor: number): number[] {
    const forgotten: number[] = [];
    for (const [number, before] of this.#queue) {
      const { result } = entries.get(number) ?? before;
      if (result === undefined) break; // answers come in order
      if (result.status !== "refused" && result.seq > cursor) continue;
      forgotten.push(number);
      entries.delete(number);
    }
    return forgotten;
  }

  #store(document: Stored): void {
    const byKey = this.#stored.get(document.collection) ?? new Map<string, Stored>();
    this.#stored.set(document.collection, byKey);
    if (document.value === undefined) byKey.delete(document.key);
    else byKey.set(document.key, freeze(document as unknown as Json) as unknown as Stored);
  }

  #touch(op: Op, number: number): void {
    const name = idOf(op.collection, op.key);
    const touched = this.#touched.get(name) ?? { id: [op.collection, op.key] as const, numbers: new Set() };
    touched.numbers.add(number);
    this.#touched.set(name, touched);
  }

  #untouch(number: number): DocumentId[] {
    const ids = (this.#queue.get(number)?.mutation.ops ?? []).map((op): DocumentId => [op.collection, op.key]);
    this.#queue.delete(number);
    for (const [collection, key] of ids) {
      const touched = this.#touched.get(idOf(collection, key));
      touched?.numbers.delete(number);
      if (touched?.numbers.size === 0) this.#touched.delete(idOf(collection, key));
    }
    return ids;
  }

  #forgotten(ids: readonly DocumentId[]): DocumentId[] {
    for (const id of ids) this.#forgetShown(...id);
    return [...new Map(ids.map((id) => [idOf(...id), id])).values()];
  }

  #forgetShown(collection: string, key: string): void {
    this.#shown.delete(idOf(collection, key));
    this.#lists.delete(collection);
  }

  #look(id: string, collection: string, key: string): Shown {
    let shown = this.#shown.get(id);
    if (shown === undefined) {
      const stored = this.#stored.get(collection)?.get(key);
      const pending = this.#pending(id, stored?.version ?? 0);
      const value = pending.reduce<Value>((before, { op }) => performed(before, op), stored?.value);
      const base = pending.reduce((lowest, each) => Math.min(lowest, each.base), Number.POSITIVE_INFINITY);
      shown = { document: this.#shape(collection, key, value, pending.length > 0), base };
      this.#shown.set(id, shown);
    }
    return shown;
  }

  /** The ops on a document that are not in what is stored of it, in order, each with the base of its mutation. */
  #pending(id: string, version: number): { base: number; op: Op }[] {
    const pending: { base: number; op: Op }[] = [];
    const take = ({ base, ops }: Pick<Mutation, "base" | "ops">, seen: readonly number[] = []) =>
      ops.forEach((op, index) => {
        if (idOf(op.collection, op.key) === id && !seen.includes(index)) pending.push({ base, op });
      });
    for (const number of this.#touched.get(id)?.numbers ?? []) {
      const entry = this.#queue.get(number);
      // Answered, and on a page of a snapshot that is newer than the cursor.
      if (entry === undefined || (entry.result !== undefined && entry.result.seq <= version)) continue;
      take(entry.mutation, entry.seen);
    }
    for (const unsaved of this.#unsaved) take(unsaved);
    return pending;
  }

  /**
   * What the person has seen who did this. Where an earlier mutation is shown on top of a document, that is no more
   * than what this one was made on: what was read since may be hidden beneath it.
   */
  #baseOf(ops: readonly Op[]): number {
    const bases = ops.map(({ collection, key }) => this.#look(idOf(collection, key), collection, key).base);
    return Math.min(this.#meta.cursor ?? 0, ...bases);
  }

  #shape(collection: string, key: string, value: Value, pending: boolean): Document | undefined {
    if (value === undefined) return undefined;
    const stored = this.#stored.get(collection)?.get(key);
    const beside = pending ? undefined : stored?.siblings?.map((sibling) => sibling.value);
    const siblings = beside === undefined ? NO_SIBLINGS : Object.freeze(beside);
    return Object.freeze({ collection, key, value: freeze(value), version: stored?.version ?? 0, pending, siblings });
  }
}

/** Unsaved edits with the numbers that come next, as a change. */
export function numbered(edits: readonly Unsaved[], meta: Meta): Change {
  let { number, clock } = meta;
  const entries = edits.map((unsaved): Entry => {
    number += 1;
    clock = Math.max(unsaved.clock, clock + 1);
    return { mutation: { number, base: unsaved.base, clock, ops: unsaved.ops } };
  });
  return { meta: { number, clock }, entries };
}

/** What a device knows of itself after a change, made by somebody who may not have known all of it. */
export function meanwhile(meta: Meta, change: Change): Meta {
  return { ...meta, ...change.meta, clock: Math.max(meta.clock, change.meta?.clock ?? 0) };
}

/** A replica of which nothing is known yet. */
export function blank(device: string): Saved {
  return { meta: { device, number: 0, cursor: null, clock: 0 }, documents: [], queue: [] };
}
