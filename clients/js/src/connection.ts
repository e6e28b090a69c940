/**
 * Keeps one replica in touch with the server: one session after another, with pauses in between.
 *
 * A session is a WebSocket where there can be one; where one cannot be opened (an old proxy, a Node without), it is
 * a long poll. Pauses grow with full jitter, respect Retry-After, and end early when the network comes back.
 */

import { delay, pause } from "./backoff.js";
import { ERASED, RoostError } from "./errors.js";
import { Http } from "./http.js";
import { PollSession, verdictOf } from "./poll.js";
import type { Peer, Session, Verdict } from "./session.js";
import type { SocketClass } from "./socket.js";
import { SocketSession } from "./socket.js";

/** `offline`: not in touch now; `stopped`: and will not be, see the error. */
export type ConnectionState = "offline" | "connecting" | "live" | "stopped";

/** `stale` was not accepted, or ends soon: then another one is wanted. */
export type Token = string | ((stale?: string) => string | Promise<string>);

export interface ConnectionOptions {
  readonly url: string;
  readonly user: string;
  readonly token: Token;
  readonly fetch: typeof fetch;
  /** undefined: there is none, or none is wanted. */
  readonly WebSocket: SocketClass | undefined;
}

/** After so many WebSockets in a row that could not be opened, a long poll takes over. */
const UNOPENED_MAX = 2;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #peer: Peer;
  readonly #tell: (state: ConnectionState, error?: RoostError) => void;
  readonly #over = new AbortController();
  readonly #http: Http;
  #token: string | undefined;
  #session: Session | undefined;
  #resting = new AbortController();
  #attempt = 0;
  #unopened = 0;
  #done: Promise<void>;

  /** Begins at once. `tell` hears of every change of its state. */
  constructor(options: ConnectionOptions, peer: Peer, tell: (state: ConnectionState, error?: RoostError) => void) {
    this.#options = options;
    this.#tell = tell;
    this.#http = new Http(options.url, options.user, (stale) => this.#getToken(stale), options.fetch);
    this.#peer = {
      get device() {
        return peer.device;
      },
      get cursor() {
        return peer.cursor;
      },
      collections: peer.collections,
      outgoing: () => peer.outgoing(),
      take: (input) => peer.take(input),
      rename: () => peer.rename(),
      present: (devices) => peer.present(devices),
      held: (error) => peer.held(error),
      live: () => {
        this.#attempt = 0;
        peer.live();
      },
    };
    globalThis.addEventListener?.("online", this.#online);
    globalThis.addEventListener?.("offline", this.#offline);
    globalThis.document?.addEventListener("visibilitychange", this.#visible);
    this.#done = this.#run();
  }

  /** There may be something to push. */
  push(): void {
    this.#session?.push();
  }

  /** Resolves once nothing is under way any more. */
  async close(): Promise<void> {
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.removeEventListener?.("offline", this.#offline);
    globalThis.document?.removeEventListener("visibilitychange", this.#visible);
    this.#over.abort();
    this.#resting.abort();
    this.#session?.end({ next: "again" });
    await this.#done;
  }

  readonly #online = (): void => {
    this.#attempt = 0;
    this.#unopened = 0;
    this.#resting.abort();
    this.#session?.probe();
  };

  readonly #offline = (): void => this.#session?.end({ next: "again" });

  readonly #visible = (): void => {
    if (globalThis.document.visibilityState !== "visible") return;
    // Timers sleep in hidden tabs and with the machine: find out what became of the connection meanwhile.
    this.#resting.abort();
    this.#session?.probe();
  };

  async #run(): Promise<void> {
    let refetch = false;
    while (!this.#over.signal.aborted) {
      this.#tell("connecting");
      const verdict: Verdict = await this.#once(refetch).catch(verdictOf);
      if (this.#over.signal.aborted) break;
      refetch = verdict.next === "refetch" || (refetch && this.#peer.cursor === null);
      // Whoever told of it, the log or an answer: it is over, and nothing may be left.
      if (verdict.error?.code === ERASED) await this.#peer.take((replica) => replica.forget()).catch(() => undefined);
      this.#tell(verdict.next === "stop" ? "stopped" : "offline", verdict.error);
      if (verdict.next === "stop") return;
      if (verdict.next === "renew") this.#stale = this.#token;
      this.#unopened = verdict.next === "unopened" ? this.#unopened + 1 : 0;
      await this.#rest(delay(this.#attempt++, Math.random, verdict.retryAfter));
    }
  }

  #stale: string | undefined;

  /** One session, from beginning to end. */
  async #once(refetch: boolean): Promise<Verdict> {
    const { signal } = this.#over;
    if (this.#stale !== undefined || this.#token === undefined) await this.#getToken(this.#stale);
    this.#stale = undefined;
    if (refetch || this.#peer.cursor === null) {
      const snapshot = await this.#http.snapshot(this.#peer.collections, signal);
      await this.#peer.take((replica) => replica.snapshot(snapshot.documents, snapshot.seq, snapshot.clock));
    }
    if (signal.aborted) return { next: "again" };
    const session = this.#open(await this.#getToken());
    this.#session = session;
    try {
      return await this.#unlessAbsent(await session.ended);
    } finally {
      this.#session = undefined;
    }
  }

  #open(token: string): Session {
    const { WebSocket, url, user } = this.#options;
    if (WebSocket === undefined || this.#unopened >= UNOPENED_MAX) return new PollSession(this.#http, this.#peer);
    const address = `${url.replace(/^http/, "ws")}/v1/users/${encodeURIComponent(user)}/sync`;
    const renewed = typeof this.#options.token === "string" ? undefined : () => this.#getToken(this.#token);
    return new SocketSession(new WebSocket(address, ["roost.v1"]), this.#peer, token, renewed);
  }

  /** A user that does not exist has nothing to follow, but may be polled for and pushed to. */
  #unlessAbsent(verdict: Verdict): Promise<Verdict> | Verdict {
    if (verdict.next !== "absent" || this.#over.signal.aborted) return verdict;
    const session = new PollSession(this.#http, this.#peer, true);
    this.#session = session;
    return session.ended;
  }

  /** `stale` was not accepted, or ends soon. */
  async #getToken(stale?: string): Promise<string> {
    if (this.#token !== undefined && this.#token !== stale) return this.#token;
    const { token } = this.#options;
    try {
      this.#token = typeof token === "string" ? token : await token(stale);
    } catch (error) {
      if (error instanceof RoostError) throw error;
      throw new RoostError("token", `No token: ${String(error)}`, { cause: error });
    }
    return this.#token;
  }

  async #rest(milliseconds: number): Promise<void> {
    this.#resting = new AbortController();
    if (!this.#over.signal.aborted) await pause(milliseconds, this.#resting.signal);
  }
}
