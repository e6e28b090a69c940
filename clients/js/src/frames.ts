/** The server's frames, read with distrust: what is none is refused, and members that are not known are passed over. */

import { RoostError } from "./errors.js";
import { NUMBER_MAX } from "./json.js";
import type { Frame } from "./protocol.js";

type Check = (value: unknown) => boolean;
type Shape = Record<string, Check>;

const text: Check = (value) => typeof value === "string";
const seq: Check = (value) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= NUMBER_MAX;
const number: Check = (value) => seq(value) && value !== 0;
const real: Check = (value) => typeof value === "number";
const flag: Check = (value) => typeof value === "boolean";
const time: Check = (value) => typeof value === "string" && !Number.isNaN(Date.parse(value));
const anything: Check = (value) => value !== undefined;

function maybe(check: Check): Check {
  return (value) => value === undefined || value === null || check(value);
}

function optional(check: Check): Check {
  return (value) => value === undefined || check(value);
}

function oneOf(...names: readonly string[]): Check {
  return (value) => typeof value === "string" && names.includes(value);
}

function list(check: Check): Check {
  return (value) => Array.isArray(value) && value.every(check);
}

function object(shape: Shape): Check {
  const members = Object.entries(shape);
  return (value) =>
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    members.every(([name, check]) => check((value as Record<string, unknown>)[name]));
}

const event = object({
  seq: number,
  kind: oneOf("put", "delete", "erase"),
  collection: text,
  key: text,
  value: anything,
  at: time,
  actor: text,
  device: maybe(text),
  mutation: maybe(number),
  clock: optional(seq),
  beside: optional(list(number)),
});

const result = object({
  number: (value) => Number.isInteger(value),
  status: oneOf("applied", "merged", "refused", "known"),
  seq,
  conflicts: optional(list(text)),
  code: maybe(text),
  detail: optional(text),
  pointer: maybe(text),
});

const frames: Readonly<Record<string, Check>> = {
  welcome: object({ seq, floor: seq, number: seq, expires_at: maybe(real), heartbeat_s: real }),
  events: object({ events: list(event), seq, live: flag, after: optional(seq) }),
  pushed: object({ results: list(result) }),
  refused: object({ code: text, detail: text, expected: maybe(number), retry_after: maybe(real) }),
  presence: object({ devices: list(object({ device: text, seen_at: time })) }),
  renewed: object({ expires_at: maybe(real) }),
  pong: object({}),
};

/** The frame that a message is. Throws `invalid_json`. */
export function serverFrame(message: unknown): Frame {
  const frame = parsed(message);
  const check = Object.hasOwn(frames, String(frame.type)) ? frames[String(frame.type)] : undefined;
  if (check?.(frame) !== true) throw new RoostError("invalid_json", "The server sent what is no frame.");
  return frame as Frame;
}

function parsed(message: unknown): { type?: unknown } {
  if (typeof message !== "string") return {};
  try {
    const value = JSON.parse(message) as unknown;
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}
