/** Several tabs of one browser, each a replica of its own on one IndexedDB: they are one device. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";
import type { Options, Roost } from "../src/index.js";
import { indexedDbStore, open } from "../src/index.js";
import { blank, numbered } from "../src/replica.js";
import type { SocketClass } from "../src/socket.js";
import { FakeServer } from "./fake.js";
import { until } from "./until.js";

/** Web Locks as far as they are used: one holder, the others wait in order. */
class Locks {
  #last = new Map<string, Promise<unknown>>();

  request(name: string, options: { signal: AbortSignal }, holding: () => Promise<void>): Promise<void> {
    const before = this.#last.get(name) ?? Promise.resolve();
    const held = before
      .catch(() => undefined)
      .then(() => {
        if (options.signal.aborted) throw new Error("aborted");
        return holding();
      });
    this.#last.set(name, held);
    return held;
  }
}

let server: FakeServer;
let opened: Roost[];
let names = 0;

beforeEach(async () => {
  Object.defineProperty(globalThis, "navigator", { value: { locks: new Locks() }, configurable: true });
  server = await FakeServer.start();
  opened = [];
  names += 1;
});

afterEach(async () => {
  await Promise.all(opened.map((roost) => roost.close()));
  await server.stop();
});

async function tab(more: Partial<Options> = {}): Promise<Roost> {
  const socket = WebSocket as unknown as SocketClass;
  const store = indexedDbStore(`tabs-${names}`);
  const roost = await open({ url: server.url, user: "ada", token: "good", store, WebSocket: socket, ...more });
  opened.push(roost);
  return roost;
}

test("two tabs are one device on one connection, and see each other's edits", async () => {
  const [first, second] = [await tab(), await tab()];
  assert.equal(first.device, second.device);
  await first.synced();
  await second.synced();
  assert.equal(server.followers.size, 1);
  assert.deepEqual([first.status.leader, second.status.leader], [true, false]);

  await second.collection("notes").put("a", 1);
  await until(() => first.collection("notes").get("a") === 1 && server.value("notes", "a") === 1);
  server.write("notes", "b", 2);
  await until(() => second.collection("notes").get("b") === 2);
});

test("both tabs edit at once: each edit counts once, and both end the same", async () => {
  const tabs = [await tab(), await tab(), await tab()];
  const answers = [];
  for (let step = 0; step < 40; step++) {
    for (const each of tabs) answers.push(each.collection("carts").inc("main", "/n"));
    server.write("carts", "other", step);
    await new Promise(setImmediate);
  }
  const results = await Promise.all(answers.map(async (saved) => (await saved).answer()));
  assert.equal(new Set(results.map((result) => result?.number)).size, 120);
  for (const each of tabs) await each.synced();
  assert.deepEqual(server.value("carts", "main"), { n: 120 });
  for (const each of tabs) assert.deepEqual(each.collection("carts").get("main"), { n: 120 });
});

test("the tab that holds the connection goes: another takes over, nothing lost, nothing twice", async () => {
  const [first, second] = [await tab(), await tab()];
  await second.synced();
  server.losing = 1;
  const saved = second.collection("carts").inc("main", "/n");
  await first.collection("carts").inc("main", "/n", 10);
  await first.close();
  await until(() => second.status.leader);
  assert.equal((await (await saved).answer())?.status, "applied");
  await second.synced();
  assert.deepEqual(server.value("carts", "main"), { n: 11 });
  assert.deepEqual(second.collection("carts").get("main"), { n: 11 });
});

test("what a tab saved and never told, because it died, is found and pushed", async () => {
  const [first, second] = [await tab(), await tab()];
  await second.synced();
  first.disconnect();
  const dead = indexedDbStore(`tabs-${names}`);
  const loaded = await dead.load(blank("never"));
  const unsaved = { base: 0, clock: 1, ops: [{ op: "put", collection: "notes", key: "a", value: 1 }] } as const;
  await dead.commit(({ meta }) => ({ change: numbered([unsaved], meta) }));
  await dead.close();
  assert.equal(loaded.meta.device, second.device);
  await first.close();
  second.connect();
  await until(() => server.value("notes", "a") === 1 && second.collection("notes").get("a") === 1);
});

test("without locks: who comes last holds the connection, and the one before lets go", async () => {
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  const first = await tab();
  await first.synced();
  const second = await tab();
  await second.synced();
  server.write("notes", "a", 1);
  await until(() => !first.status.leader && first.collection("notes").get("a") === 1);
  await first.collection("notes").put("b", 2);
  await until(() => server.value("notes", "b") === 2);
});

test("disconnected in one tab, disconnected in all", async () => {
  const [first, second] = [await tab(), await tab()];
  await second.synced();
  second.disconnect();
  await until(() => server.followers.size === 0 && second.status.connection === "offline");
  await second.collection("notes").put("a", 1);
  await until(() => first.collection("notes").get("a") === 1);
  assert.equal(server.value("notes", "a"), undefined);
  first.connect();
  await second.synced();
  assert.equal(server.value("notes", "a"), 1);
});

test("a new name is everybody's", async () => {
  const [first, second] = [await tab(), await tab()];
  await second.collection("notes").put("a", 1);
  await second.synced();
  server.devices.clear();
  const saved = await second.collection("notes").put("b", 2);
  assert.equal((await saved.answer())?.status, "applied");
  assert.equal(first.device, second.device);
  await second.synced();
  assert.equal(server.value("notes", "b"), 2);
});

test("other collections than last time: everything is read again", async () => {
  server.write("notes", "a", 1);
  server.write("carts", "a", 1);
  const first = await tab({ collections: ["notes"] });
  await first.synced();
  await first.close();
  const second = await tab({ collections: ["notes", "carts"] });
  await second.synced();
  assert.deepEqual(second.collections(), ["carts", "notes"]);
});
