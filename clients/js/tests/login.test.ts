/** Logging in: when a session is renewed, by whom, and what is kept of it. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { WebSocket } from "ws";
import { memoryStore, open } from "../src/index.js";
import type { LoginStore, Tokens } from "../src/login.js";
import { login, memoryLogin, resume, signUp } from "../src/login.js";
import type { SocketClass } from "../src/socket.js";
import { FakeServer } from "./fake.js";
import { until } from "./until.js";

const TTL_S = 600;
const URL = "http://roost.test";
const ADA = { user: "ada", password: "a password", device: "phone" };

/** A server that takes each refresh token once; what it is to lose is said by a test. */
class Sessions {
  readonly asked: { path: string; body: string }[] = [];
  /** Of each renewal: `request` and `answer` are lost; anything else is how it is answered. */
  readonly faults: (("request" | "answer") | Response)[] = [];
  /** Whether the token before is taken again. */
  grace = false;
  ended = false;
  number = 0;

  readonly fetch: typeof fetch = async (input, init) => {
    const path = String(input).slice(URL.length);
    const body = String(init?.body);
    this.asked.push({ path, body });
    await Promise.resolve();
    if (path !== "/v1/auth/token") return path === "/v1/auth/revoke" ? new Response("") : this.#granted();
    const fault = this.faults.shift();
    if (fault instanceof Response) return fault;
    if (fault === "request") throw new TypeError("fetch failed");
    const number = Number(new URLSearchParams(body).get("refresh_token")?.slice("refresh-".length));
    if (this.ended || (number !== this.number && !(this.grace && number === this.number - 1))) {
      this.ended = true;
      return Response.json({ error: "invalid_grant", error_description: "The session is over." }, { status: 400 });
    }
    if (number === this.number) this.number += 1;
    if (fault === "answer") throw new TypeError("fetch failed");
    return this.#granted();
  };

  get renewals(): number {
    return this.asked.filter(({ path }) => path === "/v1/auth/token").length;
  }

  #granted(): Response {
    return Response.json({
      access_token: `access-${this.number}`,
      token_type: "Bearer",
      expires_in: TTL_S,
      refresh_token: `refresh-${this.number}`,
      user: "ada",
      session: "s",
    });
  }
}

/** With a clock that only the test moves. */
function clocked(name: string, run: () => Promise<void>): void {
  test(name, async () => {
    mock.timers.enable({ apis: ["Date"], now: 1_000_000 });
    const random = mock.method(Math, "random", () => 0); // so that pauses are none
    try {
      await run();
    } finally {
      random.mock.restore();
      mock.timers.reset();
    }
  });
}

function later(seconds: number): void {
  mock.timers.tick(seconds * 1000);
}

clocked("a token is renewed before it ends, once for all who ask", async () => {
  const server = new Sessions();
  const session = await login(URL, ADA, { fetch: server.fetch, store: memoryLogin() });
  assert.deepEqual(JSON.parse(server.asked[0]?.body ?? ""), ADA);
  assert.deepEqual([session.user, session.session, await session.token()], ["ada", "s", "access-0"]);
  later(TTL_S - 90);
  assert.equal(await session.token(), "access-0");
  later(60);
  assert.deepEqual(await Promise.all([session.token(), session.token(), session.token()]), Array(3).fill("access-1"));
  assert.equal(server.renewals, 1);
  assert.equal(await session.token(), "access-1");
});

clocked("a token that is stale is another one at once", async () => {
  const server = new Sessions();
  const session = await login(URL, ADA, { fetch: server.fetch, store: memoryLogin() });
  assert.equal(await session.token("access-0"), "access-1");
  assert.equal(await session.token("access-0"), "access-1");
  assert.equal(server.renewals, 1);
});

clocked("tabs that share a store use each refresh token up once, and see what another has got", async () => {
  const server = new Sessions();
  const store = memoryLogin();
  const options = { fetch: server.fetch, store };
  const one = await login(URL, ADA, options);
  const other = await resume(URL, options);
  assert.ok(other);
  for (let round = 1; round < 4; round++) {
    later(TTL_S);
    assert.deepEqual(await Promise.all([one.token(), other.token()]), Array(2).fill(`access-${round}`));
    assert.equal(server.renewals, round);
  }
  assert.equal(server.ended, false);
});

clocked("tabs of a browser share what is in its storage, under a lock", async () => {
  const items = new Map<string, string>();
  const held: string[] = [];
  const globals = {
    localStorage: {
      getItem: (name: string) => items.get(name) ?? null,
      setItem: (name: string, value: string) => void items.set(name, value),
      removeItem: (name: string) => void items.delete(name),
    },
    navigator: {
      locks: {
        request: (name: string, work: () => Promise<unknown>) => {
          held.push(name);
          return work();
        },
      },
    },
  };
  const before = Object.keys(globals).map((name) => Object.getOwnPropertyDescriptor(globalThis, name));
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true });
  }
  try {
    const server = new Sessions();
    const session = await login(URL, ADA, { fetch: server.fetch });
    assert.equal((await resume(`${URL}/`, { fetch: server.fetch }))?.session, session.session);
    assert.equal(await session.token("access-0"), "access-1");
    assert.deepEqual(held, Array(2).fill(`roost login ${URL}`));
    await session.logout();
    assert.equal(items.size, 0);
  } finally {
    Object.keys(globals).forEach((name, index) => {
      const was = before[index];
      if (was === undefined) Reflect.deleteProperty(globalThis, name);
      else Object.defineProperty(globalThis, name, was);
    });
  }
});

clocked("what is renewed is kept before it is used", async () => {
  const server = new Sessions();
  const kept = memoryLogin();
  let failing = false;
  const store: LoginStore = {
    ...kept,
    save: (tokens: Tokens | undefined) => {
      if (failing) throw new Error("the disk is full");
      return kept.save(tokens);
    },
  };
  const session = await login(URL, ADA, { fetch: server.fetch, store });
  failing = true;
  later(TTL_S);
  await assert.rejects(session.token(), /disk is full/);
});

clocked("an answer that is lost is asked for again", async () => {
  const server = new Sessions();
  server.grace = true;
  const session = await login(URL, ADA, { fetch: server.fetch, store: memoryLogin() });
  server.faults.push("answer", "request");
  later(TTL_S);
  assert.equal(await session.token(), "access-1");
  assert.equal(server.renewals, 3);
});

clocked("a token that is still good serves while it cannot be renewed; one that is over does not", async () => {
  const server = new Sessions();
  const session = await login(URL, ADA, { fetch: server.fetch, store: memoryLogin() });
  later(TTL_S - 30);
  server.faults.push(...Array<"request">(8).fill("request"));
  assert.equal(await session.token(), "access-0");
  later(30);
  await assert.rejects(session.token(), { code: "unavailable" });
  assert.equal(await session.token(), "access-1");
});

clocked("a session that was ended says so, and nothing of it is kept", async () => {
  const server = new Sessions();
  const store = memoryLogin();
  const session = await login(URL, ADA, { fetch: server.fetch, store });
  server.ended = true;
  for (let again = 0; again < 2; again++) {
    await assert.rejects(session.token("access-0"), { code: "session_ended" });
  }
  assert.equal(server.renewals, 1);
  assert.equal(await store.load(), undefined);
  assert.equal(await resume(URL, { fetch: server.fetch, store }), undefined);
});

clocked("logging out ends the session by what renews it, in all tabs", async () => {
  const server = new Sessions();
  const options = { fetch: server.fetch, store: memoryLogin() };
  const session = await signUp(URL, ADA, options);
  const other = await resume(URL, options);
  await session.logout();
  assert.deepEqual(server.asked.slice(-1), [{ path: "/v1/auth/revoke", body: "token=refresh-0" }]);
  later(TTL_S);
  await assert.rejects(other?.token() ?? Promise.resolve(), { code: "session_ended" });
  await session.logout();
  assert.equal(server.asked.length, 2);
});

clocked("a session does not take another's tokens for its own", async () => {
  const store = memoryLogin();
  const session = await login(URL, ADA, { fetch: new Sessions().fetch, store });
  const kept = (await store.load()) as Tokens;
  await store.save({ ...kept, session: "another", user: "bob" });
  later(TTL_S);
  await assert.rejects(session.token(), { code: "session_ended" });
  assert.equal((await store.load())?.session, "another");
});

test("refusals are told by their codes", async () => {
  const refusing = (status: number, body: unknown, headers = {}) =>
    login(URL, ADA, { store: memoryLogin(), fetch: async () => Response.json(body, { status, headers }) });
  await assert.rejects(refusing(401, { code: "unauthenticated", detail: "Wrong." }), { code: "unauthenticated" });
  await assert.rejects(refusing(429, { code: "rate_limited" }, { "retry-after": "7" }), {
    code: "rate_limited",
    retryAfter: 7,
  });
  await assert.rejects(refusing(502, "<html>"), { code: "unavailable" });
  await assert.rejects(refusing(200, { access_token: 1 }), { code: "internal" });
});

test("a replica lives on with the tokens of its session, until that is over", async () => {
  const roost = await FakeServer.start();
  const server = new Sessions();
  roost.tokens.clear();
  roost.tokens.add("access-1");
  const session = await login(URL, ADA, { fetch: server.fetch, store: memoryLogin() });
  // The first token is refused: another one is asked for, and taken.
  const replica = await open({
    url: roost.url,
    user: "ada",
    token: session.token,
    store: memoryStore(),
    WebSocket: WebSocket as unknown as SocketClass,
  });
  try {
    await replica.collection("notes").put("a", 1);
    await replica.synced();
    assert.equal(server.renewals, 1);
    server.ended = true;
    roost.tokens.clear();
    roost.cut();
    await until(() => replica.status.connection === "stopped");
    assert.equal(replica.status.error?.code, "session_ended");
  } finally {
    await replica.close();
    await roost.stop();
  }
});
