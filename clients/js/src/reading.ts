/** The small rules that a replica is made of: what an event makes of a document, and an op of a value. */

import type { Value } from "./edits.js";
import { apply } from "./edits.js";
import { freeze } from "./json.js";
import type { Event, Mutation, Op, Page, Sibling } from "./protocol.js";
import type { Stored } from "./replica.js";

export const NO_SIBLINGS: readonly never[] = Object.freeze([]);

export function idOf(collection: string, key: string): string {
  return `${collection}/${key}`;
}

/** The document after an event. */
export function read(event: Event, before: Stored | undefined): Stored {
  const { collection, key } = event;
  const version = event.seq;
  if (event.kind === "delete") return { collection, key, version };
  const values: Sibling[] = [...(before?.siblings ?? [])];
  if (before?.value !== undefined) values.push({ version: before.version, value: before.value });
  const siblings = values.filter((sibling) => event.beside?.includes(sibling.version));
  return { collection, key, version, value: freeze(event.value), ...(siblings.length > 0 ? { siblings } : {}) };
}

/** The document that an item of a page tells of. */
export function paged(collection: string, item: Page["items"][number]): Stored {
  const { key, version, value } = item;
  const siblings = (item.siblings ?? []).filter((sibling) => sibling.version !== version);
  return { collection, key, version, value, ...(siblings.length > 0 ? { siblings } : {}) };
}

/** Whether events are the log from the cursor up to `seq`, as far as that can be seen. */
export function follows(cursor: number, fresh: readonly Event[], seq: number, all: boolean): boolean {
  if (all)
    return (
      fresh.length === Math.max(seq - cursor, 0) && fresh.every((event, index) => event.seq === cursor + 1 + index)
    );
  return fresh.every((event, index) => event.seq > (fresh[index - 1]?.seq ?? 0) && event.seq <= seq);
}

/** A value with an op on top. A `put` does what was edited, not more, so it shows what others changed meanwhile. */
export function performed(value: Value, op: Op): Value {
  if (op.op === "delete") return undefined;
  if (op.op === "put" && (op.edits === undefined || value === undefined)) return op.value;
  return apply(value, op.edits ?? []);
}

const sizes = new WeakMap<Mutation, number>();

/** Bytes of a mutation on the wire. */
export function bytesOf(mutation: Mutation): number {
  let bytes = sizes.get(mutation);
  if (bytes === undefined) {
    bytes = new TextEncoder().encode(JSON.stringify(mutation)).length;
    sizes.set(mutation, bytes);
  }
  return bytes;
}
