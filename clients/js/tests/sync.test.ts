/** A device and a server (a fake one, `fake.ts`): live, offline, and whatever can go wrong in between. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { WebSocket } from "ws";
import type { Options, Roost } from "../src/index.js";
import { memoryStore, open, RoostError } from "../src/index.js";
import type { SocketClass } from "../src/socket.js";
import { FakeServer } from "./fake.js";
import { until } from "./until.js";

let server: FakeServer;
let opened: Roost[];

beforeEach(async () => {
  server = await FakeServer.start();
  opened = [];
});

afterEach(async () => {
  await Promise.all(opened.map((roost) => roost.close()));
  await server.stop();
});

async function device(name: string, more: Partial<Options> = {}): Promise<Roost> {
  const socket = WebSocket as unknown as SocketClass;
  const options = {
    url: server.url,
    user: "ada",
    token: "good",
    device: name,
    store: memoryStore(),
    WebSocket: socket,
  };
  const roost = await open({ ...options, ...more });
  opened.push(roost);
  return roost;
}

function values(roost: Roost, collection: string): Record<string, unknown> {
  return Object.fromEntries(
    roost
      .collection(collection)
      .list()
      .map(({ key, value }) => [key, value]),
  );
}

/** Both ways of being in touch. */
const ways: [string, Partial<Options>][] = [
  ["a WebSocket", {}],
  ["a long poll", { WebSocket: null }],
];

for (const [name, way] of ways) {
  test(`over ${name}: two devices see the same`, async () => {
    server.write("notes", "old", { text: "there before" });
    const [phone, laptop] = [await device("phone", way), await device("laptop", way)];
    await Promise.all([phone.synced(), laptop.synced()]);
    assert.deepEqual(phone.collection("notes").get("old"), { text: "there before" });

    const saved = phone.collection("carts").inc("main", "/apples", 2);
    assert.deepEqual(phone.collection("carts").get("main"), { apples: 2 }, "at once");
    const result = await (await saved).answer();
    assert.equal(result?.status, "applied");
    await until(() => laptop.collection("carts").get("main") !== undefined);
    assert.deepEqual(laptop.collection("carts").get("main"), { apples: 2 });
  });

  test(`over ${name}: what was done offline is pushed later, in order, once`, async () => {
    const phone = await device("phone", { ...way, connect: false });
    const carts = phone.collection<{ apples: number }>("carts");
    for (let step = 0; step < 250; step++) void carts.inc("main", "/apples");
    assert.deepEqual(carts.get("main"), { apples: 250 });
    server.write("carts", "main", { apples: 1000 });
    phone.connect();
    await phone.synced();
    assert.deepEqual(server.value("carts", "main"), { apples: 1250 });
    assert.deepEqual(carts.get("main"), { apples: 1250 });
  });

  test(`over ${name}: a refused edit vanishes, says why, and holds up nobody`, async () => {
    const phone = await device("phone", way);
    const refused = phone.collection("payments").put("card", 1);
    const next = phone.collection("notes").put("a", "kept");
    assert.equal((await (await refused).answer())?.code, "version_conflict");
    assert.equal((await (await next).answer())?.status, "applied");
    await phone.synced();
    assert.equal(phone.collection("payments").get("card"), undefined);
    assert.equal(phone.collection("notes").get("a"), "kept");
  });

  test(`over ${name}: why edits are not taken is told, until they are`, async () => {
    const phone = await device("phone", way);
    await phone.synced();
    const told: (string | undefined)[] = [];
    phone.subscribe(({ connection, error }) => connection === "live" && told.push(error?.code));
    server.refusals.push({ code: "forbidden", detail: "No." }, { code: "overloaded", detail: "Later." });
    await (await phone.collection("notes").put("a", 1)).answer();
    await until(() => phone.status.error === undefined);
    server.write("notes", "b", 2); // what others write does not make it vanish
    assert.deepEqual([...new Set(told)], [undefined, "forbidden", "overloaded"]);
    assert.equal(phone.status.connection, "live");

    server.refusals.push({ code: "forbidden", detail: "No." });
    void phone.collection("notes").put("a", 2);
    await until(() => phone.status.error !== undefined);
    phone.disconnect();
    assert.equal(phone.status.error, undefined, "whoever switched it off knows why it is offline");
  });
}

for (const [name, way] of ways) {
  test(`over ${name}: folded away events: a snapshot is read again, and edits stay`, async () => {
    const phone = await device("phone", way);
    await phone.collection("notes").put("a", 1);
    await phone.synced();
    phone.disconnect();
    await phone.collection("notes").put("mine", 1);
    server.write("notes", "a", undefined);
    server.write("notes", "b", 2);
    server.compact();
    phone.connect();
    await phone.synced();
    assert.deepEqual(
      phone
        .collection("notes")
        .list()
        .map(({ key }) => key),
      ["b", "mine"],
    );
  });

  test(`over ${name}: overloaded: tried again`, async () => {
    const phone = await device("phone", way);
    server.refusals.push({ code: "overloaded", detail: "Later.", retry_after: 0.01 });
    await phone.collection("notes").put("a", 1);
    await phone.synced();
    assert.equal(server.value("notes", "a"), 1);
  });

  test(`over ${name}: a gap is closed by a new name`, async () => {
    const phone = await device("phone", way);
    await phone.collection("notes").put("a", 1);
    await phone.synced();
    server.devices.clear();
    await phone.collection("notes").put("b", 2);
    await phone.synced();
    assert.equal(server.value("notes", "b"), 2);
    assert.match(phone.device, /^phone-[0-9a-z]{8}$/);
  });

  test(`over ${name}: a user that does not exist comes into being with the first push`, async () => {
    server.strict = true;
    const phone = await device("phone", way);
    await phone.synced();
    await phone.collection("notes").put("a", 1);
    await phone.synced();
    assert.equal(server.value("notes", "a"), 1);
    server.write("notes", "a", 2);
    await until(() => phone.collection("notes").get("a") === 2);
  });

  test(`over ${name}: only some collections`, async () => {
    server.write("notes", "a", 1);
    server.write("carts", "a", 1);
    const phone = await device("phone", { ...way, collections: ["carts"] });
    await phone.synced();
    server.write("notes", "b", 1);
    server.write("carts", "b", 1);
    await until(() => phone.collection("carts").get("b") === 1);
    assert.deepEqual(phone.collections(), ["carts"]);
    await assert.rejects(phone.collection("notes").put("a", 1), RoostError);
  });
}

for (const [name, way] of ways) {
  test(`over ${name}: a backup that is restored and has gone on since: everything is read again`, async () => {
    const phone = await device("phone", way);
    await phone.collection("notes").put("a", "lost");
    await phone.collection("notes").put("b", "lost");
    await phone.synced();
    phone.disconnect();
    server.restore();
    for (let n = 0; n < 5; n++) server.write("notes", "b", n);
    await phone.collection("notes").put("c", "made offline");
    phone.connect();
    await phone.synced();
    const kept = { b: 4, c: "made offline" };
    await until(() => JSON.stringify(values(phone, "notes")) === JSON.stringify(kept));
    assert.equal(server.value("notes", "c"), "made offline");
  });

  test(`over ${name}: who may read and not push goes on reading`, async () => {
    const phone = await device("phone", way);
    await phone.synced();
    server.refusals.push({ code: "forbidden", detail: "Read only.", retry_after: 3600 });
    await phone.collection("notes").put("a", 1);
    await until(() => server.refusals.length === 0);
    server.write("notes", "b", 2);
    await until(() => phone.collection("notes").get("b") === 2);
    assert.equal(phone.status.connection, "live");
    assert.equal(phone.status.pending, 1);
  });
}

test("an answer that is lost with the connection: pushed again, done once", async () => {
  const phone = await device("phone");
  await phone.synced();
  server.losing = 1;
  await phone.collection("carts").inc("main", "/apples", 2);
  await phone.synced();
  assert.deepEqual(server.value("carts", "main"), { apples: 2 });
  assert.deepEqual(phone.collection("carts").get("main"), { apples: 2 });
});

test("closing before it was pushed loses nothing", async () => {
  const store = memoryStore();
  const first = await device("phone", { store, connect: false });
  await first.collection("notes").put("a", 1);
  await first.close();
  const second = await device("ignored", { store });
  assert.equal(second.device, "phone");
  assert.equal(second.collection("notes").get("a"), 1);
  await second.synced();
  assert.equal(server.value("notes", "a"), 1);
});

test("cut again and again: every edit counts once", async () => {
  const phone = await device("phone");
  for (let step = 1; step <= 30; step++) {
    void phone.collection("carts").inc("main", "/n");
    server.write("carts", `other-${step}`, step);
    if (step % 5 === 0) {
      await until(() => server.followers.size > 0);
      server.cut(step % 10 === 0 ? 1001 : undefined);
    }
    await new Promise(setImmediate);
  }
  await phone.synced();
  await until(() => phone.collection("carts").list().length === 31);
  assert.deepEqual(server.value("carts", "main"), { n: 30 });
  assert.deepEqual(phone.collection("carts").get("main"), { n: 30 });
});

test("a WebSocket that cannot be opened: a long poll takes over", async () => {
  server.deaf = true;
  const phone = await device("phone");
  await phone.collection("notes").put("a", 1);
  await phone.synced();
  assert.equal(server.value("notes", "a"), 1);
});

test("a token that is not accepted is asked for again; one that is about to end is renewed in-band", async () => {
  const given: string[] = ["old", "good", "fresh"];
  server.tokens.add("fresh");
  server.expires = () => Date.now() / 1000 + 1;
  const phone = await device("phone", { token: () => Promise.resolve(given.shift() ?? "none") });
  await phone.synced();
  await until(() => server.heard.some((frame) => frame.type === "token" && frame["token"] === "fresh"));
  assert.equal(server.heard.filter((frame) => frame.type === "hello").length <= 2, true);
});

test("a clock that is ahead: no fresh tokens all the time", async () => {
  let asked = 0;
  server.expires = () => 1;
  const phone = await device("phone", { token: () => (asked++ === 0 ? "good" : "never") });
  await phone.synced();
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  assert.equal(asked, 1);
});

test("what answers and is no Roost, as a proxy may, is not there for good", async () => {
  let pages = 0;
  const proxied: typeof fetch = async (input, init) =>
    pages++ < 2 ? new Response("<html>Not here.</html>", { status: 404 - pages }) : fetch(input, init);
  server.write("notes", "a", 1);
  const phone = await device("phone", { WebSocket: null, fetch: proxied });
  await phone.synced();
  assert.equal(phone.collection("notes").get("a"), 1);
});

test("stopped, and told to connect again: it does", async () => {
  const phone = await device("phone");
  await phone.synced();
  server.cut(4403);
  await until(() => phone.status.connection === "stopped");
  phone.connect();
  await phone.collection("notes").put("a", 1);
  await phone.synced();
  assert.equal(server.value("notes", "a"), 1);
});

test("no longer this user's: stopped, and said so", async () => {
  const phone = await device("phone");
  await phone.synced();
  const synced = assert.rejects(
    phone
      .collection("payments")
      .put("a", 1)
      .then(() => until(() => phone.status.connection === "stopped").then(() => phone.synced())),
    (error: RoostError) => error.code === "forbidden",
  );
  server.cut(4403);
  await synced;
});

test("a server that falls silent is found out, and left", async () => {
  server.heartbeat = 0.05;
  const phone = await device("phone", {});
  await phone.synced();
  server.silent = true;
  await until(() => server.heard.some((frame) => frame.type === "ping"));
  await until(() => phone.status.connection !== "live");
  server.silent = false;
  server.write("notes", "a", 1);
  await until(() => phone.collection("notes").get("a") === 1);
});

test("what was read and kept is told", async () => {
  const phone = await device("phone");
  server.write("notes", "a", 1);
  await phone.synced();
  await until(() => server.heard.some((frame) => frame.type === "read" && frame["seq"] === 1));
});

test("presence: the devices that are connected", async () => {
  await (await device("phone")).synced();
  const laptop = await device("laptop");
  await until(() => laptop.status.devices.length === 2);
});

test("a transaction is one mutation, sees itself, and is all or nothing", async () => {
  const phone = await device("phone", { connect: false });
  await phone.transaction((tx) => {
    tx.collection("carts").inc("main", "/n", 2);
    tx.collection("notes").put("n", tx.collection<{ n: number }>("carts").get("main")?.n ?? 0);
  });
  assert.equal(phone.collection("notes").get("n"), 2);
  const bad = phone.transaction((tx) => {
    tx.collection("notes").put("other", 1);
    tx.collection("notes").inc("other", "/x");
  });
  await assert.rejects(bad, (error: RoostError) => error.code === "patch_failed");
  assert.equal(phone.collection("notes").get("other"), undefined);
  phone.connect();
  await phone.synced();
  assert.equal(server.devices.get("phone")?.number, 1);
});

test("listeners hear of what changes, and of nothing else; objects stay the same until they change", async () => {
  const phone = await device("phone", { connect: false });
  const notes = phone.collection("notes");
  const heard: string[] = [];
  notes.subscribe((documents) => heard.push(`all ${documents.length}`));
  const end = notes.watch("a", (document) => heard.push(`a ${String(document?.value)}`));
  await notes.put("a", 1);
  await notes.put("b", 1);
  const [list, a] = [notes.list(), notes.document("a")];
  assert.equal(notes.list(), list);
  await phone.collection("other").put("a", 1);
  assert.equal(notes.list(), list);
  await notes.put("b", 2);
  assert.notEqual(notes.list(), list);
  assert.equal(notes.document("a"), a);
  end();
  await notes.delete("a");
  assert.deepEqual(heard, ["a 1", "all 1", "all 2", "all 2", "all 1"]);
  assert.throws(() => ((notes.document("b") as { value: unknown }).value = 3));
});
