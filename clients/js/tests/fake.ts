/**
 * A small Roost for tests, written from `docs/guides/sync.md`: one user's log in memory, over HTTP and WebSocket.
 *
 * It decides as `lww` does with plain writes: what comes later wins. Tests cut its connections and make it refuse.
 */

import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { WebSocket } from "ws";
import { WebSocketServer } from "ws";

import type { Json } from "../src/json.js";
import type { Event, Mutation, Result } from "../src/protocol.js";
import { performed } from "../src/reading.js";

interface Follower {
  readonly socket: WebSocket;
  readonly device: string;
  readonly collections: readonly string[] | undefined;
  cursor: number;
}

interface Known {
  number: number;
  readonly answers: Map<number, Result>;
}

export class FakeServer {
  events: Event[] = [];
  floor = 0;
  readonly documents = new Map<string, { collection: string; key: string; version: number; value: Json }>();
  readonly devices = new Map<string, Known>();
  readonly followers = new Set<Follower>();
  /** Every frame and request that came, for tests to look at. */
  readonly heard: { type: string; [member: string]: unknown }[] = [];
  readonly tokens = new Set(["good"]);
  heartbeat = 15;
  /** Do not take WebSockets. */
  deaf = false;
  /** What the next pushes are answered with, instead of being taken. */
  readonly refusals: { code: string; detail: string; expected?: number; retry_after?: number }[] = [];
  /** Take the next pushes and lose their answers with the connection. */
  losing = 0;
  /** Do not follow users that have no event. */
  strict = false;
  silent = false;
  erased = false;
  expires = (): number | null => null;
  readonly #waiting = new Set<() => void>();
  readonly #http: Server;
  readonly #sockets: WebSocketServer;

  constructor() {
    this.#http = createServer((request, response) => void this.#answer(request, response));
    this.#sockets = new WebSocketServer({ noServer: true });
    this.#http.on("upgrade", (request, socket, head) => {
      if (this.deaf) {
        socket.destroy();
        return;
      }
      this.#sockets.handleUpgrade(request, socket, head, (upgraded) => this.#greet(upgraded));
    });
  }

  static async start(): Promise<FakeServer> {
    const server = new FakeServer();
    await new Promise<void>((resolve) => server.#http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.cut();
    for (const wake of this.#waiting) wake();
    this.#http.closeAllConnections();
    await new Promise((resolve) => this.#http.close(resolve));
  }

  /** Break every connection, or close it with a code. */
  cut(code?: number): void {
    for (const follower of this.followers) {
      if (code === undefined) follower.socket.terminate();
      else follower.socket.close(code);
    }
    this.followers.clear();
  }

  /** Somebody writes. */
  write(
    collection: string,
    key: string,
    value: Json | undefined,
    from: { device?: string; mutation?: number } = {},
  ): void {
    const seq = this.events.length + this.floor + 1;
    const kind = value === undefined ? "delete" : "put";
    const at = new Date().toISOString();
    this.events.push({ seq, kind, collection, key, value: value ?? null, at, actor: "user:ada", ...from } as Event);
    if (value === undefined) this.documents.delete(`${collection}/${key}`);
    else this.documents.set(`${collection}/${key}`, { collection, key, version: seq, value });
    this.#wake();
  }

  get seq(): number {
    return this.events.at(-1)?.seq ?? this.floor;
  }

  value(collection: string, key: string): Json | undefined {
    return this.documents.get(`${collection}/${key}`)?.value;
  }

  /** Begin again with a backup, of when nothing had been written yet. */
  restore(): void {
    this.events = [];
    this.floor = 0;
    this.documents.clear();
    this.devices.clear();
  }

  /** Fold away all events. */
  compact(): void {
    this.floor = this.seq;
    this.events = [];
  }

  /** Erase the user: whoever follows is told, and nothing is ever there again. */
  erase(): void {
    const seq = this.seq + 1;
    const event = { seq, kind: "erase", collection: "", key: "", value: null, at: new Date().toISOString() };
    for (const { socket } of this.followers) {
      send(socket, { type: "events", events: [{ ...event, actor: "admin" }], seq, live: true });
      socket.close(4410);
    }
    this.followers.clear();
    this.erased = true;
    for (const wake of this.#waiting) wake();
  }

  push(device: string, mutations: readonly Mutation[]): { results: Result[] } | { code: string; expected?: number } {
    const refusal = this.refusals.shift();
    if (refusal !== undefined) return refusal;
    const known = this.devices.get(device) ?? { number: 0, answers: new Map<number, Result>() };
    this.devices.set(device, known);
    const first = mutations[0]?.number ?? 1;
    if (first > known.number + 1) return { code: "mutation_gap", expected: known.number + 1 };
    if (mutations.some(({ base }) => base > this.seq)) return { code: "cursor_ahead" };
    return {
      results: mutations.map((mutation) => known.answers.get(mutation.number) ?? this.#decide(device, known, mutation)),
    };
  }

  #decide(device: string, known: Known, mutation: Mutation): Result {
    const refused = mutation.ops.some((op) => op.collection === "payments");
    if (!refused) {
      for (const op of mutation.ops) {
        const value = performed(this.value(op.collection, op.key), op);
        this.write(op.collection, op.key, value, { device, mutation: mutation.number });
      }
    }
    const result: Result = refused
      ? { number: mutation.number, status: "refused", seq: this.seq, code: "version_conflict", detail: "No." }
      : { number: mutation.number, status: "applied", seq: this.seq };
    known.number = mutation.number;
    known.answers.set(mutation.number, result);
    return result;
  }

  #wake(): void {
    queueMicrotask(() => {
      for (const follower of this.followers) this.#feed(follower);
      for (const wake of this.#waiting) wake();
    });
  }

  #feed(follower: Follower): void {
    if (this.silent || follower.cursor >= this.seq) return;
    const events = this.#after(follower.cursor, follower.collections);
    follower.cursor = this.seq;
    send(follower.socket, { type: "events", events, seq: this.seq, live: true });
  }

  #after(cursor: number, collections: readonly string[] | undefined): Event[] {
    return this.events.filter((event) => event.seq > cursor && (collections?.includes(event.collection) ?? true));
  }

  #greet(socket: WebSocket): void {
    let follower: Follower | undefined;
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as { type: string } & Record<string, unknown>;
      this.heard.push(frame);
      if (this.silent) return;
      if (frame.type === "hello") follower = this.#hello(socket, frame);
      else if (frame.type === "ping") send(socket, { type: "pong" });
      else if (frame.type === "token") {
        send(socket, { type: "renewed", expires_at: this.expires() });
      } else if (frame.type === "push" && follower !== undefined) {
        const made = this.push(follower.device, frame["mutations"] as Mutation[]);
        if (this.losing > 0) {
          this.losing -= 1;
          socket.terminate();
        } else if ("results" in made) send(socket, { type: "pushed", ...made });
        else send(socket, { type: "refused", detail: "No.", ...made });
      }
    });
    socket.on("close", () => follower && this.followers.delete(follower));
  }

  #hello(socket: WebSocket, frame: Record<string, unknown>): Follower | undefined {
    const after = frame["after"] as number;
    const device = frame["device"] as string;
    if (!this.tokens.has(frame["token"] as string)) return void socket.close(4401);
    if (this.erased) return void socket.close(4410);
    if (after > this.seq) return void socket.close(4409);
    if (after < this.floor) return void socket.close(4410);
    if (this.strict && this.seq === 0) return void socket.close(4404);
    const number = this.devices.get(device)?.number ?? 0;
    const { seq, floor, heartbeat } = this;
    send(socket, { type: "welcome", seq, floor, number, expires_at: this.expires(), heartbeat_s: heartbeat });
    const events = this.#after(after, frame["collections"] as string[] | undefined);
    send(socket, { type: "events", events, seq, live: true });
    const follower = { socket, device, collections: frame["collections"] as string[] | undefined, cursor: seq };
    this.followers.add(follower);
    send(socket, {
      type: "presence",
      devices: [...this.followers].map((each) => ({ device: each.device, seen_at: new Date().toISOString() })),
    });
    return follower;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "", "http://x");
    this.heard.push({ type: `${request.method} ${url.pathname.replace(/^\/v1\/users\/[^/]+/, "")}` });
    if (!this.tokens.has((request.headers.authorization ?? "").replace("Bearer ", ""))) {
      return reply(response, 401, { code: "unauthenticated", detail: "No." });
    }
    if (this.erased) return reply(response, 410, { code: "user_erased", detail: "No." });
    const [, , , , what, collection] = url.pathname.split("/");
    const there = this.seq > 0 || !this.strict;
    if (what === "push") {
      const { device, mutations } = (await body(request)) as { device: string; mutations: Mutation[] };
      const made = this.push(device, mutations);
      if ("results" in made) return reply(response, 200, { seq: this.seq, ...made });
      return reply(
        response,
        made.code === "overloaded" ? 503 : 409,
        { detail: "No.", ...made },
        { "retry-after": "0" },
      );
    }
    if (!there) return reply(response, 404, { code: "not_found", detail: "No." });
    if (what === undefined) {
      const names = [...this.documents.values()].map((document) => document.collection);
      return reply(response, 200, { seq: this.seq, collections: Object.fromEntries(names.map((name) => [name, 1])) });
    }
    if (what === "docs") return reply(response, 200, this.#page(collection ?? "", url.searchParams.get("after")));
    const after = Number(url.searchParams.get("after"));
    if (after < this.floor) return reply(response, 410, { code: "cursor_compacted", detail: "No." });
    if (after > this.seq) return reply(response, 409, { code: "cursor_ahead", detail: "No." });
    if (after === this.seq && url.searchParams.get("wait") !== "0") {
      await new Promise<void>((resolve) => {
        this.#waiting.add(resolve);
        response.on("close", resolve);
      }).finally(() => this.#waiting.clear());
    }
    if (this.erased) return reply(response, 410, { code: "user_erased", detail: "No." });
    const events = this.#after(after, url.searchParams.get("collections")?.split(","));
    return reply(response, 200, { events, seq: this.seq, floor: this.floor }, { "roost-seq": String(this.seq) });
  }

  /** Pages of one document, so that every snapshot is read in several. */
  #page(collection: string, after: string | null): Json {
    const all = [...this.documents.values()].filter((document) => document.collection === collection);
    const index = after === null ? 0 : Number(after);
    const items = all.slice(index, index + 1).map((item) => ({ ...item, updated_at: new Date().toISOString() }));
    return { items, next: index + 1 < all.length ? String(index + 1) : null };
  }
}

function send(socket: WebSocket, frame: Record<string, unknown>): void {
  socket.send(JSON.stringify(frame));
}

function reply(response: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(value));
}

async function body(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return JSON.parse(Buffer.concat(chunks).toString());
}
