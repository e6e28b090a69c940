/** A user who is erased: the device forgets everything, and says so. */

import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";
import type { Options, Roost } from "../src/index.js";
import { memoryStore, open, RoostError } from "../src/index.js";
import type { SocketClass } from "../src/socket.js";
import { fileStore } from "../src/store/file.js";
import { FakeServer } from "./fake.js";
import { until } from "./until.js";

const SECRET = "the most secret of all";
const isErased = (error: unknown): boolean => error instanceof RoostError && error.code === "user_erased";

let server: FakeServer;
let folder: string;
let opened: Roost[];

beforeEach(async () => {
  server = await FakeServer.start();
  folder = await mkdtemp(join(tmpdir(), "roost-"));
  opened = [];
});

afterEach(async () => {
  await Promise.all(opened.map((roost) => roost.close()));
  await server.stop();
  await rm(folder, { recursive: true });
});

async function device(more: Partial<Options> = {}): Promise<Roost> {
  const socket = WebSocket as unknown as SocketClass;
  const options = { url: server.url, user: "ada", token: "good", store: memoryStore(), WebSocket: socket };
  const roost = await open({ ...options, ...more });
  opened.push(roost);
  return roost;
}

async function over(roost: Roost): Promise<void> {
  await until(() => roost.status.connection === "stopped");
  assert.equal(roost.status.error?.code, "user_erased");
  assert.equal(roost.status.pending, 0);
  assert.deepEqual(roost.collections(), []);
  await assert.rejects(async () => roost.collection("notes").put("again", SECRET), isErased);
  await assert.rejects(roost.synced(), isErased);
  assert.deepEqual(roost.collections(), []);
}

for (const [name, way] of [
  ["a WebSocket", {}],
  ["a long poll", { WebSocket: null }],
] as [string, Partial<Options>][]) {
  test(`over ${name}: who is live is told, and forgets`, async () => {
    server.write("notes", "a", SECRET);
    const phone = await device(way);
    await phone.synced();
    assert.equal(phone.collection("notes").get("a"), SECRET);
    server.erase();
    await over(phone);
  });

  test(`over ${name}: who was offline learns it, and what was never pushed goes too`, async () => {
    server.write("notes", "a", SECRET);
    const phone = await device({ ...way, collections: ["notes"] });
    await phone.synced();
    phone.disconnect();
    await phone.collection("notes").put("b", SECRET);
    assert.equal(phone.status.pending, 1);
    server.erase();
    phone.connect();
    await over(phone);
    assert.equal(server.value("notes", "b"), undefined, "nobody is brought back");
  });
}

test("nothing of it stays in the file", async () => {
  server.write("notes", "a", SECRET);
  const phone = await device({ store: fileStore(join(folder, "ada.roost")) });
  await phone.synced();
  await phone.collection("notes").put("b", SECRET);
  assert.ok((await contents()).includes(SECRET));
  server.erase();
  await over(phone);
  await phone.close();
  assert.ok(!(await contents()).includes(SECRET));
});

async function contents(): Promise<string> {
  const names = await readdir(folder);
  return (await Promise.all(names.map((name) => readFile(join(folder, name), "utf8")))).join("");
}
