/**
 * A mutation in the making: what a person does in one step, as the ops that will be pushed.
 *
 * A draft sees its own ops, and refuses at once what the server would refuse for good, so that whoever made it learns
 * of it while the person is still there. The same rules as the server's `roost/sync/draft.py`.
 */

import type { Edit, Value } from "./edits.js";
import { check, difference, fitted, OPS_MAX } from "./edits.js";
import { RoostError } from "./errors.js";
import type { Json } from "./json.js";
import { accepted, checkSize, merge } from "./json.js";
import type { Op } from "./protocol.js";
import { INBOX, MUTATION_BYTES_MAX } from "./protocol.js";

export interface Ground {
  value(collection: string, key: string): Value;
  hasSiblings(collection: string, key: string): boolean;
  /** Whether the value that shows is one that the server has not seen. */
  isPending(collection: string, key: string): boolean;
  /** The collections that the replica holds; undefined for all. */
  readonly collections: ReadonlySet<string> | undefined;
}

const COLLECTION = /^[a-z][a-z0-9_]{0,47}$/;
const NOT_IN_KEY = /[\x00-\x1f\x7f-\x9f/]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const KEY_BYTES_MAX = 200;

/** Each method throws a `RoostError` and then has done nothing. */
export class Draft {
  readonly ops: Op[] = [];
  readonly #ground: Ground;
  readonly #values = new Map<string, Value>();

  constructor(ground: Ground) {
    this.#ground = ground;
  }

  /** The document's value with this draft; undefined where there is none. */
  value(collection: string, key: string): Value {
    const id = `${collection}/${key}`;
    return this.#values.has(id) ? this.#values.get(id) : this.#ground.value(collection, key);
  }

  /** The document's value is now `given`; nothing, if it is that already. */
  put(collection: string, key: string, given: unknown): void {
    this.#checkName(collection, key, false);
    const value = accepted(given);
    const edits = difference(this.value(collection, key), value);
    if (edits.length > 0 || this.#ground.hasSiblings(collection, key)) this.#put(collection, key, value, edits);
  }

  /** Change the document field by field; every edit must fit what is there. Where there is none, one is made. */
  edit(collection: string, key: string, given: readonly Edit[]): void {
    this.#checkName(collection, key, false);
    const edits = given.map((edit) => ("value" in edit ? { ...edit, value: accepted(edit.value) } : edit));
    if (edits.length > 0) this.#edit(collection, key, edits);
  }

  /** Change the document by a JSON Merge Patch (RFC 7396); nothing, if that leaves it as it is. */
  merge(collection: string, key: string, given: unknown): void {
    this.#checkName(collection, key, false);
    const before = this.value(collection, key);
    const after = merge(before === undefined ? null : before, accepted(given));
    const edits = difference(before, after);
    if (edits.length > OPS_MAX) this.#put(collection, key, after, edits);
    else if (edits.length > 0) this.#edit(collection, key, edits);
  }

  /** The document goes; nothing, where there is none. */
  delete(collection: string, key: string): void {
    this.#checkName(collection, key, true);
    if (this.value(collection, key) !== undefined) this.#add({ op: "delete", collection, key }, undefined);
  }

  /** Throw `too_large` for a mutation that no push can hold. */
  checkSize(): void {
    if (new TextEncoder().encode(JSON.stringify(this.ops)).length > MUTATION_BYTES_MAX - 100) {
      throw new RoostError("too_large", `What is done in one step is at most ${MUTATION_BYTES_MAX} bytes of JSON.`);
    }
  }

  #put(collection: string, key: string, value: Json, edits: readonly Edit[]): void {
    checkSize(value);
    // Edits that are no less than the value say nothing that it does not.
    const told = edits[0] !== undefined && edits[0].path !== "" && edits.length <= OPS_MAX;
    this.#add({ op: "put", collection, key, value, ...(told ? { edits } : {}) }, value);
  }

  #edit(collection: string, key: string, edits: readonly Edit[]): void {
    check(edits);
    const before = this.value(collection, key);
    const value = fitted(before, edits);
    if (value !== undefined) {
      checkSize(accepted(value));
      const id = `${collection}/${key}`;
      if (before === undefined && (this.#values.has(id) || this.#ground.isPending(collection, key))) {
        // Deleted here, and made anew: edits would be put among those that the deletion is to end.
        this.#put(collection, key, value, []);
        return;
      }
    }
    this.#add({ op: "edit", collection, key, edits }, value);
  }

  #add(op: Op, value: Value): void {
    if (this.ops.length === OPS_MAX) throw new RoostError("too_large", `At most ${OPS_MAX} ops in one step.`);
    this.ops.push(op);
    this.#values.set(`${op.collection}/${op.key}`, value);
  }

  #checkName(collection: string, key: string, deletes: boolean): void {
    if (!COLLECTION.test(collection)) throw new RoostError("invalid_name", `A collection is ${COLLECTION.source}.`);
    if (collection.startsWith("roost_") && !(deletes && collection === INBOX)) {
      throw new RoostError("forbidden", "Collections named roost_… are written by Roost alone.");
    }
    if (this.#ground.collections?.has(collection) === false) {
      throw new RoostError("invalid_request", `This replica does not hold the collection '${collection}'.`);
    }
    if (key === "" || NOT_IN_KEY.test(key) || new TextEncoder().encode(key).length > KEY_BYTES_MAX) {
      const detail = `A key is 1 to ${KEY_BYTES_MAX} bytes of UTF-8 without control characters or '/'.`;
      throw new RoostError("invalid_name", detail);
    }
  }
}
