/**
 * JSON values as Roost holds them: what is one, when two are equal, how names are ordered.
 *
 * Values that a replica hands out are frozen, since they are shared with the replica: changing one in place would
 * change what the device believes to have read.
 */

import { RoostError } from "./errors.js";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** Numbers beyond ±2^53 are refused, not rounded. */
export const NUMBER_MAX = 2 ** 53;
export const DEPTH_MAX = 64;
export const VALUE_BYTES_MAX = 256 << 10;

/** U+0000, and half of a surrogate pair. */
const NO_TEXT = /\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

export type JsonObject = { readonly [name: string]: Json };

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isArray(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}

/** A member of an object; undefined where it has none of its own (`toString` is nobody's member). */
export function member(value: JsonObject, name: string): Json | undefined {
  return Object.hasOwn(value, name) ? value[name] : undefined;
}

/** Equality of JSON values: the order of members does not matter. */
export function equal(one: Json | undefined, other: Json | undefined): boolean {
  if (one === other) return true;
  if (isArray(one)) {
    return isArray(other) && one.length === other.length && one.every((item, index) => equal(item, other[index]));
  }
  if (!isObject(one) || !isObject(other)) return false;
  const names = Object.keys(one);
  return (
    names.length === Object.keys(other).length &&
    names.every((name) => Object.hasOwn(other, name) && equal(one[name], other[name]))
  );
}

/** Order by code points, which is the order of UTF-8 bytes and of the server's lists; JavaScript's own differs. */
export function compare(one: string, other: string): number {
  const length = Math.min(one.length, other.length);
  for (let index = 0; index < length; index++) {
    const [left, right] = [one.charCodeAt(index), other.charCodeAt(index)];
    if (left !== right) return rank(left) - rank(right);
  }
  return one.length - other.length;
}

/** Surrogates stand for code points beyond every other code unit. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

export function freeze<T extends Json | undefined>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const item of Object.values(value)) freeze(item as Json);
  }
  return value;
}

/** A frozen copy of what a caller gave, as JSON has it. Throws `invalid_json` for what Roost cannot hold. */
export function accepted(value: unknown): Json {
  return freeze(copy(value, 0));
}

/** Throw `too_large` for a value that no document can have. */
export function checkSize(value: Json): void {
  const text = JSON.stringify(value);
  if (text.length * 3 > VALUE_BYTES_MAX && new TextEncoder().encode(text).length > VALUE_BYTES_MAX) {
    throw new RoostError("too_large", `A value is at most ${VALUE_BYTES_MAX} bytes of compact JSON.`);
  }
}

/** `value` changed by a JSON Merge Patch (RFC 7396): null removes a member, objects merge, all else replaces. */
export function merge(value: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const members = new Map(isObject(value) ? Object.entries(value) : []);
  for (const [name, item] of Object.entries(patch)) {
    if (item === null) members.delete(name);
    else members.set(name, merge(members.get(name), item));
  }
  return Object.fromEntries(members);
}

function copy(value: unknown, depth: number): Json {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") {
    if (NO_TEXT.test(value)) throw new RoostError("invalid_json", "A string holds U+0000 or half of a surrogate pair.");
    return value;
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value) || Math.abs(value) > NUMBER_MAX) {
      throw new RoostError("invalid_json", "A number is finite and within ±2^53.");
    }
    return value;
  }
  if (typeof value !== "object") throw new RoostError("invalid_json", `A ${typeof value} is no JSON value.`);
  if (depth >= DEPTH_MAX) throw new RoostError("invalid_json", `A value is at most ${DEPTH_MAX} levels deep.`);
  if (Array.isArray(value)) return value.map((item) => copy(item, depth + 1));
  const given = value as { toJSON?: unknown };
  if (typeof given.toJSON === "function") return copy(given.toJSON(), depth + 1);
  const members = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(members.map(([name, item]) => [copy(name, depth), copy(item, depth + 1)]));
}
