/** Roost over plain HTTP: requests that carry the token, answers that are data, refusals that are errors. */

import { RoostError } from "./errors.js";
import type { Event, Mutation, Page, Result } from "./protocol.js";
import { microseconds } from "./protocol.js";
import { paged } from "./reading.js";
import type { Stored } from "./replica.js";

const PAGE_ITEMS = 1000;
const TIMEOUT_MS = 30_000;

/** Asks for a token. `stale` is one that was not accepted: then another is wanted. */
export type TokenSource = (stale?: string) => Promise<string>;

/** A push that was refused as a whole. */
export class PushRefused extends RoostError {
  readonly expected: number | undefined;

  constructor(code: string, detail: string, retryAfter: number | undefined, expected: number | undefined) {
    super(code, detail, retryAfter === undefined ? {} : { retryAfter });
    this.expected = expected;
  }
}

export interface Stretch {
  readonly events: readonly Event[];
  readonly seq: number;
  readonly live: boolean;
}

export interface Snapshot {
  readonly seq: number;
  readonly documents: readonly Stored[];
  readonly clock: number;
}

interface Log {
  readonly events: readonly Event[];
  readonly seq: number;
}

interface Response<T> {
  readonly body: T;
  readonly headers: Headers;
}

export class Http {
  readonly #user: string;
  readonly #token: TokenSource;
  readonly #fetch: typeof fetch;

  constructor(url: string, user: string, token: TokenSource, fetcher: typeof fetch) {
    this.#user = `${url}/v1/users/${encodeURIComponent(user)}`;
    this.#token = token;
    this.#fetch = fetcher;
  }

  /** A whole reading of the log. A user that does not exist is an empty log at 0. */
  async snapshot(collections: ReadonlySet<string> | undefined, signal: AbortSignal): Promise<Snapshot> {
    const head = await this.#get<{ seq: number; collections: Record<string, number> }>("", signal).catch(ifNotFound);
    const documents: Stored[] = [];
    let clock = 0;
    for (const name of Object.keys(head?.collections ?? {})) {
      if (collections?.has(name) === false) continue;
      for (let after = ""; ;) {
        const page = await this.#get<Page>(`/docs/${name}?limit=${PAGE_ITEMS}${after}`, signal);
        for (const item of page.items) {
          documents.push(paged(name, item));
          clock = Math.max(clock, microseconds(item.updated_at));
        }
        if (page.next === null) break;
        after = `&after=${encodeURIComponent(page.next)}`;
      }
    }
    return { seq: head?.seq ?? 0, documents, clock };
  }

  /** The log after a cursor; waits up to `wait` seconds for something to happen. Undefined: there is no such user. */
  async events(
    after: number,
    wait: number,
    collections: ReadonlySet<string> | undefined,
    signal: AbortSignal,
  ): Promise<Stretch | undefined> {
    const narrowed = collections === undefined ? "" : `&collections=${[...collections].join(",")}`;
    const path = `/events?after=${after}&limit=${PAGE_ITEMS}&wait=${wait}${narrowed}`;
    try {
      const { body, headers } = await this.#request<Log>(path, {}, signal, (wait + 30) * 1000);
      return { ...body, live: body.seq >= Number(headers.get("roost-seq") ?? body.seq) };
    } catch (error) {
      return ifNotFound(error);
    }
  }

  /** Push mutations. Throws `PushRefused` where the server would have none of it. */
  async push(device: string, mutations: readonly Mutation[], signal: AbortSignal): Promise<readonly Result[]> {
    const init = {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ device, mutations }),
    };
    const { body } = await this.#request<{ results: Result[] }>("/push", init, signal, TIMEOUT_MS);
    return body.results;
  }

  async #get<T>(path: string, signal: AbortSignal): Promise<T> {
    return (await this.#request<T>(path, {}, signal, TIMEOUT_MS)).body;
  }

  async #request<T>(path: string, init: RequestInit, signal: AbortSignal, timeout: number): Promise<Response<T>> {
    // Not AbortSignal.any with AbortSignal.timeout: Node 20 collects these as garbage before their time has come.
    const ends = new AbortController();
    const end = (): void => ends.abort();
    const timer = setTimeout(end, timeout);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
    try {
      let token = await this.#token();
      for (let again = false; ; again = true) {
        const headers = { ...init.headers, authorization: `Bearer ${token}` };
        const request = { ...init, headers, signal: ends.signal, cache: "no-store" } as const;
        const response = await this.#fetch(this.#user + path, request);
        if (response.ok) return { body: (await response.json()) as T, headers: response.headers };
        const refusal = await refusalOf(response);
        if (response.status !== 401 || again) throw refusal;
        token = await this.#token(token);
      }
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }
}

async function refusalOf(response: globalThis.Response): Promise<PushRefused> {
  const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string; expected?: number };
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  // Roost always names a code: whatever else answers, a proxy or a captive portal, is not there for good.
  const code = problem.code ?? "unavailable";
  const detail = problem.detail ?? `HTTP ${response.status}`;
  return new PushRefused(code, detail, Number.isFinite(after) ? after : undefined, problem.expected);
}

function ifNotFound(error: unknown): undefined {
  if (error instanceof RoostError && error.code === "not_found") return undefined;
  throw error;
}
