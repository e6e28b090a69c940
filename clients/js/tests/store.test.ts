/** What every store keeps of its promises, and what a file and IndexedDB do when something goes wrong. */

import "fake-indexeddb/auto";

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { deleteIndexedDb, indexedDbStore, memoryStore, RoostError } from "../src/index.js";
import type { Change, Unsaved } from "../src/replica.js";
import { blank, numbered } from "../src/replica.js";
import { fileStore } from "../src/store/file.js";
import type { Header, Loaded, Store } from "../src/store/store.js";

const folder = mkdtempSync(join(tmpdir(), "roost-"));
after(() => rmSync(folder, { recursive: true }));

let names = 0;
const file = (): string => join(folder, `replica-${names++}`);

/** Makes stores that are one and the same, opened again. */
const kinds: Record<string, () => () => Store> = {
  memory: () => {
    const store = memoryStore();
    return () => store;
  },
  file: () => {
    const path = file();
    return () => fileStore(path);
  },
  "a file that is written anew all the time": () => {
    const path = file();
    return () => fileStore(path, { rewriteBytes: 1 });
  },
  IndexedDB: () => {
    const name = `db-${names++}`;
    return () => indexedDbStore(name);
  },
};

function edit(n: number): Unsaved {
  return { base: 0, clock: n, ops: [{ op: "put", collection: "notes", key: `k${n}`, value: n }] };
}

async function append(store: Store, ...edits: Unsaved[]): Promise<Header | undefined> {
  return store.commit(({ meta }) => ({ change: numbered(edits, meta) }));
}

function commit(store: Store, change: Change): Promise<Header | undefined> {
  return store.commit(() => ({ change }));
}

const document = (key: string, version: number) => ({ collection: "notes", key, version, value: { v: version } });

for (const [kind, make] of Object.entries(kinds)) {
  test(`${kind}: what was committed is there again`, async () => {
    const again = make();
    let store = again();
    assert.deepEqual((await store.load(blank("phone"))).meta, blank("phone").meta);
    await append(store, edit(1), edit(2));
    await commit(store, { documents: [document("a", 1), document("b", 2)], meta: { cursor: 2, clock: 7 } });
    await append(store, edit(3));
    await commit(store, {
      documents: [{ collection: "notes", key: "a", version: 3 }],
      forgotten: [1],
      meta: { cursor: 3 },
    });
    await store.close();

    store = again();
    const loaded = await store.load(blank("another"));
    assert.deepEqual(loaded.meta, { device: "phone", number: 3, cursor: 3, clock: 8 });
    assert.equal(loaded.revision, 4);
    assert.deepEqual(loaded.documents, [document("b", 2)]);
    assert.deepEqual(numbersOf(loaded), [2, 3]);
    await commit(store, { documents: [document("c", 9)], allDocuments: true });
    await commit(store, {
      entries: [{ mutation: { ...edit(9), number: 1 } }],
      allEntries: true,
      meta: { device: "new", number: 1 },
    });
    await store.close();

    const last = await again().load(blank("another"));
    assert.deepEqual(last.documents, [document("c", 9)]);
    assert.deepEqual(numbersOf(last), [1]);
    assert.deepEqual([last.meta.device, last.meta.number], ["new", 1]);
  });

  test(`${kind}: commits at once get different numbers`, async () => {
    const store = make()();
    await store.load(blank("phone"));
    await Promise.all(Array.from({ length: 20 }, (_, index) => append(store, edit(index))));
    await store.close();
    const loaded = await (kind === "memory" ? store : undefined)?.load(blank("phone"));
    if (loaded !== undefined)
      assert.deepEqual(
        numbersOf(loaded),
        Array.from({ length: 20 }, (_, index) => index + 1),
      );
  });

  test(`${kind}: what fails to decide writes nothing, and harms nobody`, async () => {
    const store = make()();
    await store.load(blank("phone"));
    const [before, failed, next] = await Promise.allSettled([
      append(store, edit(1)),
      store.commit(() => {
        throw new RoostError("invalid_request", "No.");
      }),
      append(store, edit(2)),
    ]);
    assert.deepEqual([before.status, failed.status, next.status], ["fulfilled", "rejected", "fulfilled"]);
    assert.equal((await append(store, edit(3)))?.revision, 3);
    await store.close();
  });

  test(`${kind}: what decides on nothing writes nothing`, async () => {
    const store = make()();
    await store.load(blank("phone"));
    assert.equal(await store.commit(() => undefined), undefined);
    assert.equal((await append(store, edit(1)))?.revision, 1);
    await store.close();
  });
}

function numbersOf(loaded: Loaded): number[] {
  return loaded.queue.map((entry) => entry.mutation.number);
}

test("file: cut off anywhere, it opens with all whole lines", async () => {
  const path = file();
  const store = fileStore(path);
  await store.load(blank("phone"));
  const sizes: number[] = [];
  for (let n = 1; n <= 5; n++) {
    sizes.push(statSync(path).size);
    await append(store, edit(n));
  }
  await store.close();
  const whole = readFileSync(path);
  for (let length = sizes[0] as number; length <= whole.length; length += 7) {
    writeFileSync(path, whole);
    truncateSync(path, length);
    const torn = fileStore(path);
    const loaded = await torn.load(blank("phone"));
    assert.equal(
      loaded.meta.number,
      sizes.filter((size) => size <= length).length - 1 + (length === whole.length ? 1 : 0),
    );
    await append(torn, edit(99));
    await torn.close();
    const after = fileStore(path);
    assert.equal((await after.load(blank("phone"))).meta.number, loaded.meta.number + 1);
    await after.close();
  }
});

test("file: a torn end is cut off; damage before the end is said", async () => {
  const path = file();
  const store = fileStore(path);
  await store.load(blank("phone"));
  await append(store, edit(1));
  await store.close();
  appendFileSync(path, "0badbad0 {}\nno line");
  const torn = fileStore(path);
  assert.equal((await torn.load(blank("phone"))).meta.number, 1);
  await append(torn, edit(2));
  await torn.close();
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] as number) ^ 1;
  writeFileSync(path, bytes);
  await assert.rejects(fileStore(path).load(blank("phone")), (error: RoostError) => error.code === "storage");
});

test("file: one at a time; a lock of a process that is gone does not count", async () => {
  const path = file();
  const store = fileStore(path);
  await store.load(blank("phone"));
  await assert.rejects(fileStore(path).load(blank("phone")), (error: RoostError) => error.code === "locked");
  await store.close();
  const gone = spawnSync(process.execPath, ["-e", ""]).pid;
  writeFileSync(`${path}.lock`, String(gone));
  const next = fileStore(path);
  await next.load(blank("phone"));
  await next.close();
});

test("file: it is written anew, and stays small", async () => {
  const path = file();
  const store = fileStore(path, { rewriteBytes: 2_000 });
  await store.load(blank("phone"));
  for (let n = 1; n <= 200; n++) {
    await append(store, edit(n));
    await commit(store, { documents: [document("a", n)], forgotten: [n], meta: { cursor: n } });
  }
  assert(statSync(path).size < 5_000);
  await store.close();
  const again = fileStore(path);
  const loaded = await again.load(blank("phone"));
  assert.deepEqual([loaded.meta.number, loaded.documents], [200, [document("a", 200)]]);
  await again.close();
});

test("IndexedDB: a database that is deleted meanwhile is an error, not silence", async () => {
  const store = indexedDbStore("deleted");
  await store.load(blank("phone"));
  await deleteIndexedDb("deleted");
  await assert.rejects(
    append(store, edit(1)),
    (error: RoostError) => error instanceof RoostError && error.code === "storage",
  );
});

test("file: what was committed stays so, whether there is room to write it anew or not", async () => {
  const path = file();
  const store = fileStore(path, { rewriteBytes: 1 });
  await store.load(blank("phone"));
  mkdirSync(`${path}.new`); // what is written anew has no place to go
  for (let n = 1; n <= 3; n++) assert.equal((await append(store, edit(n)))?.revision, n);
  await commit(store, { allDocuments: true, allEntries: true, meta: { number: 0, cursor: null } });
  assert.match(readFileSync(path, "utf8"), /"k1"/);
  rmdirSync(`${path}.new`);
  await append(store, edit(4));
  assert.doesNotMatch(readFileSync(path, "utf8"), /"k1"/, "what was forgotten as a whole goes as soon as it can");
  await store.close();
  const again = fileStore(path);
  assert.deepEqual(numbersOf(await again.load(blank("another"))), [1]);
  await again.close();
});

const RIVAL = `
  import { lock } from ${JSON.stringify(new URL("../src/store/lock.js", import.meta.url).href)};
  const [paths, start] = [process.argv[1].split(","), Number(process.argv[2])];
  const won = [];
  for (const [index, path] of paths.entries()) {
    while (Date.now() < start + index * 20);
    await lock(path).then(() => won.push(path), () => undefined);
  }
  console.log(won.join("\\n"));
  process.stdin.on("end", () => process.exit()).resume();
`;

test("file: of several that find the lock of a process that is gone, one gets it", async () => {
  const gone = String(spawnSync(process.execPath, ["-e", ""]).pid);
  const paths = Array.from({ length: 40 }, file);
  for (const path of paths) writeFileSync(`${path}.lock`, gone);
  const start = Date.now() + 1_000;
  const args = ["--input-type=module", "-e", RIVAL, paths.join(","), String(start)];
  const rivals = [1, 2, 3].map(() => spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] }));
  // All of them live until the last has tried: nobody lets go.
  const won = await Promise.all(
    rivals.map(async ({ stdout }) =>
      String(((await once(stdout, "data")) as [Buffer])[0])
        .trim()
        .split("\n"),
    ),
  );
  for (const rival of rivals) rival.stdin.end();
  assert.deepEqual(
    won
      .flat()
      .filter((path) => path !== "")
      .sort(),
    [...paths].sort(),
  );
});
