/** What device and server say to each other (`docs/guides/sync.md`), as types. */

import type { Edit } from "./edits.js";
import type { Json } from "./json.js";

export type Op =
  | {
      readonly op: "put";
      readonly collection: string;
      readonly key: string;
      readonly value: Json;
      readonly edits?: readonly Edit[];
    }
  | { readonly op: "edit"; readonly collection: string; readonly key: string; readonly edits: readonly Edit[] }
  | { readonly op: "delete"; readonly collection: string; readonly key: string };

/** What a device did in one step, all or none. `clock` is in microseconds since 1970. */
export interface Mutation {
  readonly number: number;
  readonly base: number;
  readonly clock: number;
  readonly ops: readonly Op[];
}

export interface Result {
  readonly number: number;
  readonly status: "applied" | "merged" | "refused" | "known";
  readonly seq: number;
  readonly conflicts?: readonly string[];
  readonly code?: string;
  readonly detail?: string;
  readonly pointer?: string;
}

export interface Event {
  readonly seq: number;
  readonly kind: string;
  readonly collection: string;
  readonly key: string;
  readonly value: Json;
  readonly at: string;
  readonly device?: string | null;
  readonly mutation?: number | null;
  readonly clock?: number;
  readonly beside?: readonly number[] | null;
}

/** A value that stands beside a document's own, because its writer had not seen that. */
export interface Sibling {
  readonly version: number;
  readonly value: Json;
}

/** A page of `GET …/docs/{collection}`. */
export interface Page {
  readonly items: readonly {
    readonly key: string;
    readonly version: number;
    readonly value: Json;
    readonly updated_at: string;
    /** All values, the document's own too. */
    readonly siblings?: readonly Sibling[];
  }[];
  readonly next: string | null;
}

export interface Presence {
  readonly device: string;
  readonly seen_at: string;
}

export type Frame =
  | {
      readonly type: "welcome";
      readonly seq: number;
      readonly floor: number;
      readonly number: number;
      readonly expires_at?: number | null;
      readonly heartbeat_s: number;
    }
  | {
      readonly type: "events";
      /** The cursor from which the stretch goes on: what is not between it and `seq` was left out. */
      readonly after?: number;
      readonly events: readonly Event[];
      readonly seq: number;
      readonly live: boolean;
    }
  | { readonly type: "pushed"; readonly results: readonly Result[] }
  | {
      readonly type: "refused";
      readonly code: string;
      readonly detail: string;
      readonly expected?: number;
      readonly retry_after?: number;
    }
  | { readonly type: "presence"; readonly devices: readonly Presence[] }
  | { readonly type: "renewed"; readonly expires_at: number }
  | { readonly type: "pong" };

/** The collection in which the server keeps what conflicts have set aside. */
export const INBOX = "roost_conflicts";

export const PUSH_MUTATIONS_MAX = 100;
/** Mutations pushed at once, unless a single one is larger. */
export const PUSH_BYTES_MAX = 512 << 10;
/** A mutation as JSON; it has to fit into a frame and into the body of a push. */
export const MUTATION_BYTES_MAX = 900 << 10;

/** A device whose time is later (2112) has a clock that is broken; and no number beyond 2^53 is ever taken. */
export const TIME_MAX = 2 ** 52;

/** The time of an event in microseconds since 1970. */
export function microseconds(at: string): number {
  const fraction = /\.(\d+)/.exec(at)?.[1] ?? "";
  const seconds = Date.parse(at.replace(/\.\d+/, ""));
  return seconds * 1000 + Number(fraction.slice(0, 6).padEnd(6, "0"));
}
