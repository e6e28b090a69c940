/** A session over a WebSocket, `roost.v1`: one conversation, from `hello` to a close code. */

import { delay } from "./backoff.js";
import { RoostError } from "./errors.js";
import { serverFrame } from "./frames.js";
import type { Frame } from "./protocol.js";
import type { Next } from "./replica.js";
import type { Peer, Session, Verdict } from "./session.js";
import { erased } from "./session.js";

/** What is used of a WebSocket: the browser's, Node's, or the package ws's. */
export interface Socket {
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "message", listener: (message: { data: unknown }) => void): void;
  addEventListener(type: "close", listener: (close: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: () => void): void;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type SocketClass = new (url: string, protocols: string[]) => Socket;

const OPEN_MS = 10_000;
const PROBE_MS = 5_000;
const READ_MS = 1_000;
/** A token is renewed this long before it ends; a short one when a fifth of its time is left. */
const RENEW_MS = 60_000;

type Clock = "silence" | "read" | "renew" | "wait";

export class SocketSession implements Session {
  readonly ended: Promise<Verdict>;
  readonly #socket: Socket;
  readonly #peer: Peer;
  readonly #renewed: (() => Promise<string>) | undefined;
  #end: (verdict: Verdict) => void = () => undefined;
  #state: "opening" | "greeting" | "open" | "ended" = "opening";
  #pushing = false;
  #waits = 0;
  #silentAfter = OPEN_MS;
  #work: Promise<void> = Promise.resolve();
  #read = -1;
  readonly #timers = new Map<Clock, ReturnType<typeof setTimeout>>();

  /** `renewed` gets a fresh token, where the application can give one. */
  constructor(socket: Socket, peer: Peer, token: string, renewed?: () => Promise<string>) {
    this.#socket = socket;
    this.#peer = peer;
    this.#renewed = renewed;
    this.ended = new Promise((resolve) => (this.#end = resolve));
    socket.addEventListener("open", () => this.#greet(token));
    socket.addEventListener("message", ({ data }) => this.#hear(data));
    socket.addEventListener("close", ({ code, reason }) => this.end(this.#verdict(code, reason)));
    socket.addEventListener("error", () => undefined); // a close follows
    this.#after("silence", OPEN_MS, () => this.end({ next: "unopened" }));
  }

  push(): void {
    if (this.#state !== "open" || this.#pushing || this.#timers.has("wait")) return;
    const mutations = this.#peer.outgoing();
    if (mutations.length === 0) return;
    this.#pushing = true;
    this.#send({ type: "push", mutations });
  }

  probe(): void {
    if (this.#state !== "open") return;
    this.#send({ type: "ping" });
    this.#after("silence", PROBE_MS, () => this.end({ next: "again" }));
  }

  end(verdict: Verdict): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#socket.close(1000);
    // What was heard is saved before anybody else goes on from there.
    void this.#work.then(() => this.#end(verdict));
  }

  #greet(token: string): void {
    this.#state = "greeting";
    const { device, cursor, collections } = this.#peer;
    const narrowed = collections === undefined ? {} : { collections: [...collections] };
    this.#send({ type: "hello", device, after: cursor ?? 0, ...narrowed, token, presence: true });
  }

  #hear(data: unknown): void {
    if (this.#state === "ended") return;
    this.#after("silence", this.#silentAfter, () => this.probe());
    this.#work = this.#work
      .then(async () => {
        if (this.#state !== "ended") await this.#do(await this.#take(serverFrame(data)));
      })
      .catch((error: unknown) => {
        const known = error instanceof RoostError ? error : new RoostError("storage", String(error), { cause: error });
        this.#fail(known);
      });
  }

  /** Its own promise is among what `end` waits for, so it must not wait for the end. */
  #fail(error: RoostError): void {
    this.end({ next: error.code === "storage" ? "stop" : "again", error });
  }

  async #take(frame: Frame): Promise<Next | undefined> {
    const peer = this.#peer;
    switch (frame.type) {
      case "welcome":
        this.#welcome(frame.heartbeat_s, frame.expires_at);
        return (await peer.take((replica) => replica.welcome(frame.seq, frame.number))) ?? "push";
      case "events": {
        const next = await peer.take((replica) => replica.events(frame.events, frame.seq, frame.after));
        if (next === undefined && frame.live) peer.live();
        this.#tellRead();
        return next;
      }
      case "pushed":
        this.#pushing = false;
        this.#waits = 0;
        peer.held(undefined);
        return peer.take((replica) => replica.pushed(frame.results));
      case "refused": {
        this.#pushing = false;
        const next = await peer.take((replica) => replica.refused(frame.code, frame.expected));
        if (next === "wait") {
          peer.held(new RoostError(frame.code, frame.detail));
          this.#wait(frame.retry_after);
        }
        return next;
      }
      case "presence":
        peer.present(frame.devices);
        return undefined;
      case "renewed":
        this.#renewBefore(frame.expires_at);
        return undefined;
      case "pong":
        return undefined;
    }
  }

  async #do(next: Next | undefined): Promise<void> {
    if (next === "push") this.push();
    else if (next === "resume") this.end({ next: "again" });
    else if (next === "refetch") this.end({ next: "refetch" });
    else if (next === "forget") this.end(erased());
    else if (next === "rename") {
      await this.#peer.rename();
      this.end({ next: "again" });
    }
  }

  #welcome(heartbeat: number, expires: number | null | undefined): void {
    if (this.#state !== "greeting") return;
    this.#state = "open";
    this.#silentAfter = heartbeat * 1500;
    this.#after("silence", this.#silentAfter, () => this.probe());
    this.#renewBefore(expires);
  }

  #wait(retryAfter: number | null | undefined): void {
    this.#after("wait", delay(this.#waits++, Math.random, retryAfter ?? 0), () => this.push());
  }

  #tellRead(): void {
    if (this.#timers.has("read")) return;
    this.#after("read", READ_MS, () => {
      const { cursor } = this.#peer;
      if (cursor === null || cursor === this.#read) return;
      this.#read = cursor;
      this.#send({ type: "read", seq: cursor });
    });
  }

  #renewBefore(expires: number | null | undefined): void {
    if (expires === null || expires === undefined || this.#renewed === undefined) return;
    const told = expires * 1000 - Date.now();
    // It was just taken: if it has ended by this device's clock, that is off.
    const left = told > 0 ? told : RENEW_MS;
    const renew = this.#renewed;
    this.#after("renew", Math.max(left - RENEW_MS, left * 0.8, 1_000), () => {
      renew().then(
        (token) => this.#send({ type: "token", token }),
        () => undefined, // the server will close with 4401 in time
      );
    });
  }

  #send(frame: { type: string } & Record<string, unknown>): void {
    if (this.#state !== "ended") this.#socket.send(JSON.stringify(frame));
  }

  #after(clock: Clock, milliseconds: number, next: () => void): void {
    clearTimeout(this.#timers.get(clock));
    const run = (): void => {
      this.#timers.delete(clock);
      next();
    };
    if (this.#state !== "ended") this.#timers.set(clock, setTimeout(run, Math.min(milliseconds, 2 ** 31 - 1)));
  }

  #verdict(code: number, reason: string): Verdict {
    if (this.#state === "opening") return { next: "unopened" };
    const error = (name: string): RoostError => new RoostError(name, reason || `The server closed with ${code}.`);
    switch (code) {
      case 4400:
      case 1009:
        return { next: "stop", error: error("invalid_request") };
      case 4401:
        return { next: "renew", error: error("unauthenticated") };
      case 4403:
        return { next: "stop", error: error("forbidden") };
      case 4404:
        return { next: "absent" };
      case 4409:
      case 4410:
        return { next: "refetch" };
      default:
        return { next: "again" };
    }
  }
}
