/**
 * Edits: what somebody did to a JSON value, field by field, so that edits of several people can be merged.
 *
 * The same rules as the server's `roost/core/edits.py`. An edit addresses one place by a JSON Pointer (RFC 6901)
 * whose tokens are names of object members; `""` is the whole value. A place is a register (`set`, `unset`), a
 * counter (`inc`) or a set (`add`, `remove`): an array without repetitions.
 */

import { RoostError } from "./errors.js";
import type { Json, JsonObject } from "./json.js";
import { compare, DEPTH_MAX, equal, isArray, isObject, member, NUMBER_MAX } from "./json.js";

/** Edits of one document in one op, and ops of one mutation. */
export const OPS_MAX = 500;

export type Edit =
  | { readonly op: "set" | "inc" | "add" | "remove"; readonly path: string; readonly value: Json }
  | { readonly op: "unset"; readonly path: string };

/** The value of a place, or of a document; undefined where there is none. */
export type Value = Json | undefined;

/** A JSON Pointer, taken apart. Throws `invalid_request`. */
export function tokensOf(path: string): string[] {
  if (path === "") return [];
  if (!isPath(path)) {
    throw new RoostError("invalid_request", "A path is a JSON Pointer: empty, or /names/separated/so.");
  }
  return path
    .slice(1)
    .split("/")
    .map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** A JSON Pointer, put together. */
export function pathOf(tokens: readonly string[]): string {
  return tokens.map((token) => `/${token.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * `value` after the edits. Never fails: an edit that does not fit is passed over, see `fits`. Values are not changed
 * in place. A `set` makes the objects that are missing on its way, in place of whatever else is there.
 */
export function apply(value: Value, edits: readonly Edit[]): Value {
  return edits.reduce<Value>((before, edit) => applied(before, edit, tokensOf(edit.path)), value);
}

/** Whether the place is of the edit's kind: a counter or nothing for `inc`, and nothing but objects on the way. */
export function fits(value: Value, edit: Edit): boolean {
  let place = value;
  for (const token of tokensOf(edit.path)) {
    if (place === undefined) break;
    if (!isObject(place)) return false;
    place = member(place, token);
  }
  if (edit.op === "set" || edit.op === "unset" || place === undefined) return true;
  return edit.op === "inc" ? canGo(place, edit.value) : isArray(place);
}

/** `value` after edits of which each must fit. Throws `patch_failed`, with a pointer to the edit. */
export function fitted(value: Value, edits: readonly Edit[]): Value {
  return edits.reduce<Value>((before, edit, index) => {
    const pointer = `/${index}`;
    if (!fits(before, edit)) {
      throw new RoostError("patch_failed", `\`${edit.op}\` does not fit what is at '${edit.path}'.`, { pointer });
    }
    return apply(before, [edit]);
  }, value);
}

/** Throw `invalid_request` (or `too_large`), with a pointer to the edit, for edits that no value could take. */
export function check(edits: readonly Edit[]): void {
  if (edits.length > OPS_MAX) throw new RoostError("too_large", `At most ${OPS_MAX} edits of one document.`);
  edits.forEach((edit, index) => {
    const problem = problemOf(edit);
    if (problem !== undefined) {
      throw new RoostError("invalid_request", `Not an edit: ${problem}.`, { pointer: `/${index}` });
    }
  });
}

function problemOf(edit: Edit): string | undefined {
  // Edits may come from code without types.
  const { op, path, value } = edit as { op: unknown; path: unknown; value?: Json };
  if (typeof op !== "string" || !["set", "unset", "inc", "add", "remove"].includes(op)) return "there is no such `op`";
  if (typeof path !== "string" || !isPath(path)) return "a path is a JSON Pointer: empty, or /names/separated/so";
  if (tokensOf(path).length > DEPTH_MAX) return "the path is too long";
  if ((value === undefined) !== (op === "unset")) return "`unset` has no value, every other edit has one";
  if (op === "unset" && path === "") return "the whole document is not unset, but deleted";
  if (op === "inc" && !(Number.isInteger(value) && Math.abs(value as number) <= NUMBER_MAX)) {
    return "a counter goes up or down by a whole number";
  }
  return undefined;
}

function isPath(path: string): boolean {
  return path === "" || (path.startsWith("/") && !/~(?![01])/.test(path));
}

/** The edits that make `before` into `after`: a register for each member that differs, objects member by member. */
export function difference(before: Value, after: Value): Edit[] {
  const found: Edit[] = [];
  collect(before, after, [], found);
  return found;
}

function applied(value: Value, edit: Edit, tokens: readonly string[]): Value {
  const [name, ...rest] = tokens;
  if (name === undefined) return changed(value, edit);
  const here = isObject(value);
  if (edit.op !== "set" && value !== undefined && !here) return value;
  const members: JsonObject = here ? value : {};
  const before = member(members, name);
  const after = applied(before, edit, rest);
  if (after === before) return value;
  if (after !== undefined) return { ...members, [name]: after };
  return Object.fromEntries(Object.entries(members).filter(([other]) => other !== name));
}

/** The place itself after the edit. */
function changed(value: Value, edit: Edit): Value {
  if (edit.op === "set") return edit.value;
  if (edit.op === "unset") return undefined;
  if (edit.op === "inc") {
    if (value === undefined) return edit.value;
    return canGo(value, edit.value) ? value + (edit.value as number) : value;
  }
  if (value !== undefined && !isArray(value)) return value;
  const elements = value ?? [];
  const others = elements.filter((element) => !equal(element, edit.value));
  const contained = others.length !== elements.length;
  if (edit.op === "remove") return contained ? others : value;
  return contained ? value : [...elements, edit.value];
}

function isNumber(value: Value): value is number {
  return typeof value === "number";
}

/** JavaScript cannot tell `1` from `1.0`, which the server does not count with; such an edit is shown, then refused. */
function isCounter(value: Json): value is number {
  return Number.isInteger(value);
}

/** Whether a place is a counter that stays within ±2^53; a plain sum could be rounded to that. */
function canGo(value: Json, by: Value): value is number {
  if (!isCounter(value)) return false;
  const sum = BigInt(value) + BigInt(isNumber(by) ? by : 0);
  return sum <= BigInt(NUMBER_MAX) && sum >= -BigInt(NUMBER_MAX);
}

function collect(before: Value, after: Value, tokens: readonly string[], found: Edit[]): void {
  if (isObject(before) && isObject(after)) {
    const names = new Set([...Object.keys(before), ...Object.keys(after)]);
    for (const name of [...names].sort(compare)) {
      collect(member(before, name), member(after, name), [...tokens, name], found);
    }
  } else if (after === undefined) {
    found.push({ op: "unset", path: pathOf(tokens) });
  } else if (before === undefined || !equal(before, after)) {
    found.push({ op: "set", path: pathOf(tokens), value: after });
  }
}
