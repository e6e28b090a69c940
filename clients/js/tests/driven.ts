/**
 * A device in a process of its own, for tests that are not written in TypeScript: one JSON object a line in, one out.
 *
 * `node driven.js <file> <url> <user> <token>`; then `{"do": "edit", "collection", "key", "edits"}` (or `put`,
 * `delete`), `synced`, `view`, `status`, `connect`, `disconnect`. An edit is answered when it is saved. Lines are
 * carried out as they come.
 */

import { createInterface } from "node:readline";

import { WebSocket } from "ws";

import type { Edit } from "../src/edits.js";
import type { Edits, Json, Roost } from "../src/index.js";
import { open } from "../src/index.js";
import type { SocketClass } from "../src/socket.js";
import { fileStore } from "../src/store/file.js";

interface Line {
  readonly do: "put" | "edit" | "delete" | "synced" | "view" | "connect" | "disconnect" | "status";
  readonly collection: string;
  readonly key: string;
  readonly value: Json;
  readonly edits: readonly Edit[];
}

const [path = "", url = "", user = "", token = ""] = process.argv.slice(2);
const socket = WebSocket as unknown as SocketClass;
const roost = await open({ url, user, token, store: fileStore(path), WebSocket: socket, connect: false });
tell({ device: roost.device });
for await (const line of createInterface(process.stdin)) {
  carriedOut(roost, JSON.parse(line) as Line).then(
    (answer) => tell(answer ?? {}),
    (error: unknown) => tell({ error: String(error) }),
  );
}
await roost.close();

function tell(answer: unknown): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

async function carriedOut(on: Roost, line: Line): Promise<unknown> {
  const collection = on.collection(line.collection);
  if (line.do === "put") await collection.put(line.key, line.value);
  else if (line.do === "delete") await collection.delete(line.key);
  else if (line.do === "edit") await line.edits.reduce(gathered, collection.edit(line.key)).save();
  else if (line.do === "synced") await on.synced();
  else if (line.do === "connect") on.connect();
  else if (line.do === "disconnect") on.disconnect();
  else if (line.do === "status") return on.status;
  else return Object.fromEntries(on.collections().map((name) => [name, valuesOf(on, name)]));
  return undefined;
}

function gathered<T>(edits: Edits<T>, edit: Edit): Edits<T> {
  return edit.op === "unset" ? edits.unset(edit.path) : edits[edit.op](edit.path, edit.value as never);
}

function valuesOf(on: Roost, name: string): Record<string, unknown> {
  const documents = on.collection(name).list();
  return Object.fromEntries(documents.map(({ key, value }) => [key, value]));
}
