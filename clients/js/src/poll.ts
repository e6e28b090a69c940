/** A session without a WebSocket: a long poll for what others do, and a POST for what this device did. */

import { delay, pause } from "./backoff.js";
import { RoostError } from "./errors.js";
import type { Http } from "./http.js";
import { PushRefused } from "./http.js";
import type { Next } from "./replica.js";
import type { Peer, Session, Verdict } from "./session.js";
import { erased } from "./session.js";

const WAIT_S = 25;
/** How long to poll before a WebSocket is tried again. */
const SESSION_MS = 300_000;

export class PollSession implements Session {
  readonly ended: Promise<Verdict>;
  readonly #http: Http;
  readonly #peer: Peer;
  readonly #over = new AbortController();
  #end: (verdict: Verdict) => void = () => undefined;
  #pushing: Promise<void> | undefined;
  #wanted = false;
  /** Ends the pause of who waits for a user to come into being. */
  #pushed = new AbortController();
  readonly #untilThere: boolean;
  #polling: Promise<void>;

  /** `untilThere`: only until there is such a user. */
  constructor(http: Http, peer: Peer, untilThere: boolean = false) {
    this.#http = http;
    this.#peer = peer;
    this.#untilThere = untilThere;
    this.ended = new Promise((resolve) => (this.#end = resolve));
    void pause(SESSION_MS, this.#over.signal).then(() => this.end({ next: "again" }));
    this.#polling = this.#poll().catch((error: unknown) => this.#fail(error));
    this.push();
  }

  push(): void {
    this.#wanted = true;
    this.#pushing ??= this.#pushAll().catch((error: unknown) => this.#fail(error));
  }

  probe(): void {
    // A poll that hangs is found out by its own timeout.
  }

  end(verdict: Verdict): void {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    this.#pushed.abort();
    // What was heard is saved before anybody else goes on from there.
    void Promise.all([this.#polling, this.#pushing]).then(() => this.#end(verdict));
  }

  async #poll(): Promise<void> {
    const { signal } = this.#over;
    // The first answer comes at once, and says whether there is anything.
    for (let wait = 0, absent = 0; !signal.aborted; wait = WAIT_S) {
      const { cursor, collections } = this.#peer;
      const stretch = await this.#http.events(cursor ?? 0, wait, collections, signal);
      if (stretch === undefined) {
        this.#peer.live();
        await pause(delay(absent++, Math.random, 1), this.#pushed.signal);
        this.#pushed = new AbortController();
        continue;
      }
      if (this.#untilThere) return this.end({ next: "again" });
      const next = await this.#peer.take((replica) => replica.events(stretch.events, stretch.seq, cursor ?? 0));
      if (next === undefined && stretch.live) this.#peer.live();
      await this.#do(next);
    }
  }

  async #pushAll(): Promise<void> {
    await Promise.resolve(); // so that it never ends before `push` knows of it
    const { signal } = this.#over;
    for (let waits = 0; this.#wanted && !signal.aborted;) {
      this.#wanted = false;
      const mutations = this.#peer.outgoing();
      if (mutations.length === 0) continue;
      try {
        const results = await this.#http.push(this.#peer.device, mutations, signal);
        waits = 0;
        this.#peer.held(undefined);
        this.#pushed.abort();
        await this.#do(await this.#peer.take((replica) => replica.pushed(results)));
      } catch (error) {
        if (!(error instanceof PushRefused)) throw error;
        const { code, expected, retryAfter } = error;
        const next = await this.#peer.take((replica) => replica.refused(code, expected));
        if (next === "wait") {
          // Whoever may not push may still read.
          if (code === "unauthenticated") throw error;
          this.#peer.held(error);
          await pause(delay(waits++, Math.random, retryAfter), signal);
          this.#wanted = true;
        }
        await this.#do(next);
      }
    }
    this.#pushing = undefined; // at once: a push that is wanted now begins anew
  }

  async #do(next: Next | undefined): Promise<void> {
    if (next === "push") this.#wanted = true;
    else if (next === "resume") this.end({ next: "again" });
    else if (next === "refetch") this.end({ next: "refetch" });
    else if (next === "forget") this.end(erased());
    else if (next === "rename") {
      await this.#peer.rename();
      if (this.#peer.cursor === null) this.end({ next: "refetch" });
      this.#wanted = true;
    }
  }

  #fail(error: unknown): void {
    if (!this.#over.signal.aborted) this.end(verdictOf(error));
  }
}

/** Whether trying again may help. */
function isPassing(code: string): boolean {
  return code === "unavailable" || code === "overloaded" || code === "rate_limited" || code === "internal";
}

/** What a failed request means for the session. */
export function verdictOf(error: unknown): Verdict {
  if (!(error instanceof RoostError)) return { next: "again" };
  const { code, retryAfter } = error;
  if (code === "cursor_compacted" || code === "cursor_ahead") return { next: "refetch" };
  if (code === "unauthenticated") return { next: "renew", error, retryAfter };
  return { next: isPassing(code) || code === "token" ? "again" : "stop", error, retryAfter };
}
