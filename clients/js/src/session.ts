/** What a connection and its sessions have to do with the replica, and how a session ends. */

import { ERASED, RoostError } from "./errors.js";
import type { Mutation, Presence } from "./protocol.js";
import type { Next, Outcome, Replica } from "./replica.js";

/** A replica that is being synced. */
export interface Peer {
  readonly device: string;
  /** null before anything was read. */
  readonly cursor: number | null;
  readonly collections: ReadonlySet<string> | undefined;
  outgoing(): Mutation[];
  /** Save and show what comes of an input, then say what to do. */
  take(input: (replica: Replica) => Outcome): Promise<Next | undefined>;
  /** Go on under a new name. */
  rename(): Promise<void>;
  /** What is pushed is not taken just now; undefined: it is again. */
  held(error: RoostError | undefined): void;
  /** The log was read to its end. */
  live(): void;
  present(devices: readonly Presence[]): void;
}

/**
 * How a session ended: `again` (connect again), `refetch` (after a new snapshot), `renew` (with a new token),
 * `unopened` (it never came about), `absent` (there is no such user yet), `stop` (no other try would do better).
 */
export interface Verdict {
  readonly next: "again" | "refetch" | "renew" | "unopened" | "absent" | "stop";
  readonly error?: RoostError;
  /** Seconds. */
  readonly retryAfter?: number | undefined;
}

/** How a session ends once the user was erased. */
export function erased(): Verdict {
  return { next: "stop", error: new RoostError(ERASED, "The user was erased, for good.") };
}

/** One conversation with the server. */
export interface Session {
  readonly ended: Promise<Verdict>;
  /** There may be something to push. */
  push(): void;
  /** Find out whether anybody is there. */
  probe(): void;
  end(verdict: Verdict): void;
}
