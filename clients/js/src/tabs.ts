/**
 * Several tabs of one browser that share a store: one of them holds the connection, all of them see the same.
 *
 * Who holds it is settled by a Web Lock, which the browser hands on when a tab is closed or dies. What is saved is told
 * to the others over a BroadcastChannel, with the store's revision, so that a tab knows when it missed something.
 */

import type { Result } from "./protocol.js";
import type { Change } from "./replica.js";
import type { Status } from "./status.js";

/** An answer, and the clock of its mutation: a mutation may get another number, but never another clock. */
export interface Answer {
  readonly clock: number;
  readonly result: Result;
}

export interface News {
  readonly revision: number;
  readonly change: Change;
  readonly answers: readonly Answer[];
}

export type Message =
  | ({ readonly type: "news" } & News)
  /** How the connection is; from the tab that holds it. */
  | { readonly type: "status"; readonly status: Status }
  /** Whether there is to be one. */
  | { readonly type: "switch"; readonly on: boolean }
  /** A tab is new: how is the connection? */
  | { readonly type: "ask" };

export interface Tabs {
  tell(message: Message): void;
  /** Calls `holding` once this tab is the one; it is until what that returned resolves. */
  hold(holding: () => Promise<void>): void;
  close(): void;
}

/** Tabs that know each other by a name. */
export function browserTabs(name: string, hear: (message: Message) => void): Tabs {
  const channel = new BroadcastChannel(`roost:${name}`);
  const leaving = new AbortController();
  channel.onmessage = ({ data }: MessageEvent<Message>) => hear(data);
  // In Node, an open channel would keep the process alive.
  (channel as { unref?: () => void }).unref?.();
  return {
    tell: (message) => channel.postMessage(message),
    hold: (holding) => {
      // Without locks (a page without TLS) the tab that came last holds the connection: the store fences off others.
      if (globalThis.navigator?.locks === undefined) return void holding();
      const request = navigator.locks.request(`roost:${name}`, { signal: leaving.signal }, holding);
      request.catch(() => undefined); // aborted: it left before its turn came
    },
    close: () => {
      leaving.abort();
      channel.close();
    },
  };
}

/** Nobody else has this store. */
export function alone(): Tabs {
  return { tell: () => undefined, hold: (holding) => void holding(), close: () => undefined };
}
