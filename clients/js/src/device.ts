/**
 * A device at work: one replica, its store, the tabs that share it, and, in one of these, the connection.
 *
 * Everything goes the same way: an input becomes a change, the store saves it, the replica absorbs it, other tabs are
 * told. Changes are absorbed in the order of the store's revisions, whoever made them, so every tab goes through the
 * same states. Only edits are shown before they are saved.
 */

import type { ConnectionOptions, ConnectionState } from "./connection.js";
import { Connection } from "./connection.js";
import type { Draft } from "./draft.js";
import { ERASED, RoostError } from "./errors.js";
import { Listeners } from "./listeners.js";
import type { Mutation, Presence, Result } from "./protocol.js";
import type { Change, DocumentId, Next, Outcome, Saved, Unsaved } from "./replica.js";
import { numbered, Replica } from "./replica.js";
import type { Peer } from "./session.js";
import type { Status } from "./status.js";
import type { Header, Loaded, Store } from "./store/store.js";
import type { Answer, Message, News, Tabs } from "./tabs.js";
import { alone, browserTabs } from "./tabs.js";

export interface DeviceOptions extends ConnectionOptions {
  readonly store: Store;
  readonly collections: ReadonlySet<string> | undefined;
  readonly first: Saved;
  /** A name that no other device has. */
  readonly newName: () => string;
}

/** An edit that was saved. */
export interface Edited {
  /** The mutation's clock: its identity on this device. Undefined where nothing was to be done. */
  readonly clock: number | undefined;
}

interface Waiting extends News {
  readonly adopted: readonly Unsaved[];
  readonly absorbed: () => void;
}

type Problem = Status["error"];

/** How long another tab's news may be late before everything is loaded again. */
const NEWS_MS = 500;

export class Device implements Peer {
  readonly listeners = new Listeners();
  readonly replica: Replica;
  readonly collections: ReadonlySet<string> | undefined;
  readonly #options: DeviceOptions;
  readonly #store: Store;
  readonly #tabs: Tabs;
  #revision: number;
  #ahead = new Map<number, Waiting>();
  #late: ReturnType<typeof setTimeout> | undefined;
  #reloading: Promise<void> | undefined;
  #epoch: number | undefined;
  #saving: Promise<void> | undefined;
  #inputs: Promise<unknown> = Promise.resolve();
  #waiters = new Map<number, ((result: Result) => void)[]>();
  #answers = new Map<number, Result>();
  #connection: Connection | undefined;
  #release: () => void = () => undefined;
  #on: boolean;
  #closed = false;
  #erased = false;
  #status: Status;
  /** Why it is not live; and, live, why what is pushed is not taken. */
  #problem: Problem;
  #held: Problem;

  static async start(options: DeviceOptions, on: boolean): Promise<Device> {
    const device = new Device(options, await options.store.load(options.first), on);
    device.#tabs.tell({ type: "ask" });
    device.#tabs.hold(() => device.#lead());
    return device;
  }

  private constructor(options: DeviceOptions, loaded: Loaded, on: boolean) {
    const { store, collections } = options;
    this.#options = options;
    this.#store = store;
    this.#on = on;
    this.collections = collections;
    this.replica = new Replica(loaded, collections);
    this.#revision = loaded.revision;
    this.#status = {
      connection: on ? "connecting" : "offline",
      devices: [],
      pending: this.replica.unanswered,
      leader: false,
      device: this.device,
    };
    this.#tabs = store.shared === undefined ? alone() : browserTabs(store.shared, (message) => this.#hear(message));
  }

  get device(): string {
    return this.replica.meta.device;
  }

  get cursor(): number | null {
    return this.replica.meta.cursor;
  }

  get status(): Status {
    return this.#status;
  }

  get closed(): boolean {
    return this.#closed;
  }

  // What the person does

  /** Show an edit at once; resolves when it is saved on this device. Throws what can never take effect. */
  edit(make: (draft: Draft) => void): Promise<Edited> {
    if (this.#closed) throw new RoostError("closed", "This replica is closed.");
    this.#checkErased();
    const draft = this.replica.draft();
    make(draft);
    const unsaved = this.replica.add(draft, Date.now() * 1000);
    if (unsaved === undefined) return Promise.resolve({ clock: undefined });
    this.#changed(unsaved.ops.map((op): DocumentId => [op.collection, op.key]));
    return new Promise((resolve, reject) => {
      this.#unsaved.set(unsaved, { resolve, reject });
      this.#saving ??= this.#save();
    });
  }

  readonly #unsaved = new Map<Unsaved, { resolve: (edited: Edited) => void; reject: (error: unknown) => void }>();

  /** The server's answer to the mutation with this clock. */
  answer(clock: number): Promise<Result> {
    const known = this.#answers.get(clock);
    if (known !== undefined) return Promise.resolve(known);
    return new Promise((resolve) => this.#waiters.set(clock, [...(this.#waiters.get(clock) ?? []), resolve]));
  }

  /** Give unsaved edits their numbers, all that there are at once. */
  async #save(): Promise<void> {
    await Promise.resolve(); // edits made in the same turn are one transaction
    while (this.replica.unsaved.length > 0) {
      const batch = [...this.replica.unsaved];
      let change = numbered(batch, this.replica.meta);
      try {
        const header = await this.#store.commit(({ meta }) => {
          this.#checkErased();
          change = numbered(batch, meta);
          return { change };
        });
        await this.#arrived({ revision: header?.revision ?? 0, change, answers: [] }, batch);
        batch.forEach((unsaved, index) => {
          this.#unsaved.get(unsaved)?.resolve({ clock: change.entries?.[index]?.mutation.clock });
        });
      } catch (error) {
        this.#changed(this.replica.drop(batch));
        for (const unsaved of batch) this.#unsaved.get(unsaved)?.reject(error);
      }
      for (const unsaved of batch) this.#unsaved.delete(unsaved);
    }
    this.#saving = undefined; // at once: an edit that comes now begins anew
  }

  // What the server says

  outgoing(): Mutation[] {
    return this.replica.outgoing();
  }

  take(input: (replica: Replica) => Outcome): Promise<Next | undefined> {
    const taken = this.#inputs.then(() => this.#take(input));
    this.#inputs = taken.catch(() => undefined);
    return taken;
  }

  async rename(): Promise<void> {
    const name = this.#options.newName();
    await this.take((replica) => replica.rename(name));
  }

  live(): void {
    this.#show({ connection: "live", error: undefined });
  }

  held(error: RoostError | undefined): void {
    this.#held = problemOf(error);
    this.#show({});
  }

  present(devices: readonly Presence[]): void {
    this.#show({ devices });
  }

  async #take(input: (replica: Replica) => Outcome): Promise<Next | undefined> {
    for (;;) {
      const { change, next, results = [] } = input(this.replica);
      if (change === undefined) return next;
      if (next === "forget") this.#erased = true; // before it is saved: what is edited now must not come after it
      const answers = results.flatMap((result): Answer[] => {
        const clock = this.replica.queue.get(result.number)?.mutation.clock;
        return clock === undefined ? [] : [{ clock, result }];
      });
      let fenced = false;
      let stale = 0;
      const header = await this.#store.commit(({ epoch, revision }) => {
        fenced = epoch !== this.#epoch;
        // To number the queue anew takes all of it.
        stale = change.allEntries && revision !== this.#revision ? revision : 0;
        return fenced || stale > 0 ? undefined : { change };
      });
      if (fenced) {
        this.#release();
        throw new RoostError("locked", "Another tab holds the connection.");
      }
      if (header !== undefined) {
        await this.#arrived({ revision: header.revision, change, answers }, []);
        return next;
      }
      await this.#caughtUp(stale);
    }
  }

  #checkErased(): void {
    if (this.#erased) throw new RoostError(ERASED, "The user was erased, for good.");
  }

  /** Another tab has heard that the user was erased: what was edited here meanwhile is not to stay. */
  async #forget(): Promise<void> {
    if (this.#erased) return;
    this.#erased = true;
    await this.#saving;
    const { change } = this.replica.forget();
    if (this.replica.queue.size > 0 && change !== undefined) {
      const header = await this.#store.commit(() => ({ change }));
      if (header !== undefined) await this.#arrived({ revision: header.revision, change, answers: [] }, []);
    }
  }

  // The connection, and who holds it

  connect(on: boolean): void {
    this.#tabs.tell({ type: "switch", on });
    this.#switch(on);
  }

  #switch(on: boolean): void {
    this.#on = on;
    if (this.#epoch === undefined) return;
    const before = this.#connection;
    if (on && !this.#closed && !this.#erased && (before === undefined || this.#status.connection === "stopped")) {
      void before?.close();
      this.#connection = new Connection(this.#options, this, (state, error) => this.#connected(state, error));
    } else if (!on && before !== undefined) {
      this.#connection = undefined;
      void before.close();
      this.#show({ connection: "offline", devices: [], error: undefined });
    }
  }

  #connected(connection: ConnectionState, error: RoostError | undefined): void {
    // Why it was offline stays to be seen until it is live.
    this.#show(connection === "connecting" && this.#problem ? { connection } : { connection, error: problemOf(error) });
    if (connection !== "live" && connection !== "connecting") this.#show({ devices: [] });
  }

  /** This tab holds the connection until the promise resolves. */
  async #lead(): Promise<void> {
    if (this.#closed) return;
    try {
      const collections = this.collections && [...this.collections].sort();
      let change: Change = {};
      const header = await this.#store.commit(({ meta, epoch }) => {
        // What was read is not what is wanted now: read it all again.
        change = String(meta.collections) === String(collections) ? {} : { meta: { collections, cursor: null } };
        return { change, epoch: epoch + 1 };
      });
      if (header === undefined) return;
      // Whoever led before may have died between saving and telling; then this waits until all is loaded again.
      await this.#arrived({ revision: header.revision, change, answers: [] }, []);
      await this.#leadWith(header);
    } catch (error) {
      const known = error instanceof RoostError ? error : new RoostError("storage", String(error));
      this.#show({ connection: "stopped", error: problemOf(known) });
    }
  }

  async #leadWith(header: Header): Promise<void> {
    const over = new Promise<void>((resolve) => (this.#release = resolve));
    this.#epoch = header.epoch;
    this.#show({ leader: true });
    if (!this.#closed) {
      this.#switch(this.#on);
      await over;
    }
    this.#epoch = undefined;
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
    this.#show({ leader: false, connection: "offline" });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#late);
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
    await this.#saving;
    await this.#inputs;
    this.#release();
    this.#tabs.close();
    await this.#store.close();
    this.listeners.tell("queue");
  }

  // What is absorbed, in the order of revisions

  #hear(message: Message): void {
    if (this.#closed) return;
    if (message.type === "news") void this.#arrived(message, undefined);
    else if (message.type === "status") {
      if (this.#epoch === undefined) this.#show({ error: undefined, ...message.status, leader: false });
      if (message.status.error?.code === ERASED) void this.#forget();
    } else if (message.type === "switch") this.#switch(message.on);
    else if (this.#epoch !== undefined) this.#tabs.tell({ type: "status", status: this.#status });
  }

  /** `adopted` are unsaved edits that are saved now; undefined for another tab's news. */
  #arrived(news: News, adopted: readonly Unsaved[] | undefined): Promise<void> {
    const { revision, change, answers } = news;
    if (adopted !== undefined) this.#tabs.tell({ type: "news", revision, change, answers });
    this.#tellAnswers(answers);
    if (revision <= this.#revision) {
      // It came with what was loaded.
      if (adopted !== undefined && adopted.length > 0) this.#changed(this.replica.drop(adopted));
      return Promise.resolve();
    }
    return new Promise((absorbed) => {
      this.#ahead.set(revision, { revision, change, answers, adopted: adopted ?? [], absorbed });
      this.#absorb();
    });
  }

  #absorb(): void {
    const touched: DocumentId[] = [];
    for (let news = this.#next(); news !== undefined; news = this.#next()) {
      this.#revision = news.revision;
      touched.push(...this.replica.absorb(news.change, news.adopted.length));
      news.absorbed();
    }
    this.#changed(touched);
    this.#connection?.push();
    clearTimeout(this.#late);
    if (this.#ahead.size > 0 && !this.#closed) this.#late = setTimeout(() => void this.#reload(), NEWS_MS);
  }

  #next(): Waiting | undefined {
    const news = this.#ahead.get(this.#revision + 1);
    this.#ahead.delete(this.#revision + 1);
    return news;
  }

  #reload(): Promise<void> {
    this.#reloading ??= this.#load().finally(() => (this.#reloading = undefined));
    return this.#reloading;
  }

  /** Something was missed: take everything from the store. */
  async #load(): Promise<void> {
    const { documents, queue, meta, revision } = await this.#store.load(this.#options.first);
    if (revision > this.#revision) {
      const change = { documents, entries: queue, meta, allDocuments: true, allEntries: true };
      const touched = this.replica.absorb(change);
      this.#revision = revision;
      for (const [number, news] of this.#ahead) {
        if (number > revision) continue;
        this.#ahead.delete(number);
        touched.push(...this.replica.drop(news.adopted));
        news.absorbed();
      }
      this.#changed(touched);
    }
    this.#absorb();
  }

  async #caughtUp(revision: number): Promise<void> {
    while (this.#revision < revision) await this.#reload();
  }

  #tellAnswers(answers: readonly Answer[]): void {
    for (const { clock, result } of answers) {
      for (const waiter of this.#waiters.get(clock) ?? []) waiter(result);
      this.#waiters.delete(clock);
      this.#answers.set(clock, result);
      // Enough for whoever asks right after the edit; an answer that nobody asked for is let go of in time.
      if (this.#answers.size > 1_000) this.#answers.delete(this.#answers.keys().next().value as number);
    }
  }

  #changed(ids: readonly DocumentId[]): void {
    for (const id of new Set(ids.map(([collection, key]) => `${collection}/${key}`))) this.listeners.tell(id);
    for (const collection of new Set(ids.map(([name]) => name))) this.listeners.tell(collection);
    this.#show({});
    this.listeners.tell("queue");
  }

  #show(given: Partial<Omit<Status, "error">> & { error?: Problem }): void {
    if ("error" in given) this.#problem = given.error;
    const { error: _, ...rest } = { ...this.#status, ...given };
    const mine = { pending: this.replica.unanswered, device: this.device };
    const error = this.#problem ?? (rest.connection === "live" ? this.#held : undefined);
    const status: Status = Object.freeze({ ...rest, ...mine, ...(error === undefined ? {} : { error }) });
    if (JSON.stringify(status) === JSON.stringify(this.#status)) return;
    this.#status = status;
    if (this.#epoch !== undefined) this.#tabs.tell({ type: "status", status });
    this.listeners.tell("status");
  }
}

function problemOf(error: RoostError | undefined): Problem {
  return error && { code: error.code, detail: error.message };
}
