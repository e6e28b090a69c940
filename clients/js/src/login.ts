/**
 * Logging in with Roost's own sessions, for applications that have no provider: what gives `open` its tokens.
 *
 *     const session = (await resume(url)) ?? (await login(url, { user: "ada", password }));
 *     const roost = await open({ url, user: session.user, token: session.token });
 *
 * An access token is good for minutes. The next one is given for a refresh token, which is used up by that, so one at a
 * time renews, of all tabs; and what comes of it is kept before anybody uses it. If the answer is lost, the same token
 * is sent again, which the server takes for some seconds. After that it has to think that somebody else has a copy, and
 * ends the session.
 */

import { delay, pause } from "./backoff.js";
import { RoostError } from "./errors.js";

/** What is kept of a session. Whoever has it is logged in, so it is a secret. Times in milliseconds since 1970. */
export interface Tokens {
  readonly user: string;
  readonly session: string;
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly renewedAt: number;
  readonly expiresAt: number;
}

/** Where a login is kept. */
export interface LoginStore {
  load(): Tokens | undefined | Promise<Tokens | undefined>;
  /** Keep this from now on, or nothing. It is kept when this returns or resolves. */
  save(tokens: Tokens | undefined): void | Promise<void>;
  /** Do some work while nobody else who shares the store does any. */
  alone<T>(work: () => Promise<T>): Promise<T>;
}

export interface LoginOptions {
  /** Where the login is kept: by default the browser's localStorage, for all tabs; memory where there is none. */
  readonly store?: LoginStore;
  readonly fetch?: typeof fetch;
}

/** Who logs in. `device` and `name` tell the session in lists of them. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
  readonly device?: string;
  readonly name?: string;
}

/** The code of the error once the session is over: ended here, from another device, or not used for too long. */
export const SESSION_ENDED = "session_ended";

/** A token is renewed this long before it ends; a short one when a fifth of its time is left. */
const RENEW_MS = 60_000;
const ATTEMPTS = 4;
/** So that an answer that is lost is asked for again well within the server's grace. */
const ATTEMPT_MS = 3_000;

/** Begin a session. Throws `unauthenticated` for a wrong user or password, and `rate_limited`. */
export function login(url: string, who: Credentials, options: LoginOptions = {}): Promise<Login> {
  return begin(url, "login", who, options);
}

/** Bring a user into being, where everybody may, and begin a session. Throws `user_exists`. */
export function signUp(url: string, who: Credentials, options: LoginOptions = {}): Promise<Login> {
  return begin(url, "signup", who, options);
}

/** Go on with the session that is kept; undefined where there is none. */
export async function resume(url: string, options: LoginOptions = {}): Promise<Login | undefined> {
  const server = new Server(url, options);
  const kept = await server.store.load();
  return kept && new Login(server, kept);
}

async function begin(url: string, to: string, who: Credentials, options: LoginOptions): Promise<Login> {
  const server = new Server(url, options);
  const { user, password, device, name } = who;
  const asked = Date.now();
  const body = JSON.stringify({ user, password, device, name });
  const answer = await server.post(to, body, "application/json", 30_000);
  const tokens = tokensOf(answer, asked);
  await server.store.alone(async () => server.store.save(tokens));
  return new Login(server, tokens);
}

/** A session. Hand `token` to `open`. */
export class Login {
  readonly user: string;
  readonly session: string;
  readonly #server: Server;
  #tokens: Tokens | undefined;
  #renewing: Promise<string> | undefined;

  /** See `login`, `signUp` and `resume`. */
  constructor(server: Server, tokens: Tokens) {
    this.#server = server;
    this.#tokens = tokens;
    this.user = tokens.user;
    this.session = tokens.session;
  }

  /** The access token; another one if it is about to end, or is `stale`. Throws `session_ended`, `unavailable`. */
  readonly token = (stale?: string): Promise<string> => {
    const tokens = this.#tokens;
    if (tokens !== undefined && tokens.accessToken !== stale && Date.now() < renewAt(tokens)) {
      return Promise.resolve(tokens.accessToken);
    }
    this.#renewing ??= this.#renew(stale).finally(() => (this.#renewing = undefined));
    return this.#renewing;
  };

  /** End the session, on every node within a second; nothing of it is kept then. It may be repeated. */
  async logout(): Promise<void> {
    const { store } = this.#server;
    await store.alone(async () => {
      const kept = await this.#kept();
      if (kept !== undefined) await this.#server.form("revoke", { token: kept.refreshToken });
      await this.#keep(undefined);
    });
  }

  #renew(stale: string | undefined): Promise<string> {
    return this.#server.store.alone(async () => {
      // Another tab may have renewed it, or logged out.
      const kept = await this.#kept();
      this.#tokens = kept;
      if (kept === undefined) throw new RoostError(SESSION_ENDED, "The session is over: log in again.");
      if (kept.accessToken !== stale && Date.now() < renewAt(kept)) return kept.accessToken;
      const asked = Date.now();
      try {
        const form = { grant_type: "refresh_token", refresh_token: kept.refreshToken };
        const fresh = tokensOf(await this.#server.form("token", form), asked);
        await this.#keep(fresh);
        return fresh.accessToken;
      } catch (error) {
        if (!(error instanceof RoostError)) throw error;
        if (error.code === SESSION_ENDED) await this.#keep(undefined);
        // One that is still good serves while it cannot be renewed.
        else if (isPassing(error) && kept.accessToken !== stale && Date.now() < kept.expiresAt) return kept.accessToken;
        throw error;
      }
    });
  }

  /** What is kept of this session: the store may have got another one since. */
  async #kept(): Promise<Tokens | undefined> {
    const kept = await this.#server.store.load();
    return kept?.session === this.session ? kept : undefined;
  }

  /** Saved first: a refresh token that was used, but of which nothing came that lasts, is worse than none. */
  async #keep(tokens: Tokens | undefined): Promise<void> {
    if (tokens !== undefined || (await this.#kept()) !== undefined) await this.#server.store.save(tokens);
    this.#tokens = tokens;
  }
}

/** In the browser's localStorage, for all tabs of the origin. What can run scripts on the page can read it. */
export function browserLogin(name: string): LoginStore {
  const alone = queue();
  return {
    load: () => JSON.parse(localStorage.getItem(name) ?? "null") ?? undefined,
    save: (tokens) =>
      tokens === undefined ? localStorage.removeItem(name) : localStorage.setItem(name, JSON.stringify(tokens)),
    // Without locks (a page without TLS) tabs may renew at once: the server's grace is for that, too.
    alone: (work) => (globalThis.navigator?.locks === undefined ? alone(work) : lock(name, work)),
  };
}

/** In memory: a page that is loaded again has to log in again. */
export function memoryLogin(): LoginStore {
  let kept: Tokens | undefined;
  return { load: () => kept, save: (tokens) => void (kept = tokens), alone: queue() };
}

/** Where sessions are begun and renewed. */
class Server {
  readonly store: LoginStore;
  readonly #url: string;
  readonly #fetch: typeof fetch;

  constructor(url: string, options: LoginOptions) {
    this.#url = url.replace(/\/+$/, "");
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
    this.store = options.store ?? defaultStore(`roost login ${this.#url}`);
  }

  /** Sent again while that may help. */
  async form(to: string, fields: Record<string, string>): Promise<unknown> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.post(to, new URLSearchParams(fields).toString(), FORM, ATTEMPT_MS);
      } catch (error) {
        if (!(error instanceof RoostError) || !isPassing(error) || attempt + 1 >= ATTEMPTS) throw error;
        await pause(Math.min(delay(attempt, Math.random, error.retryAfter), ATTEMPT_MS), new AbortController().signal);
      }
    }
  }

  async post(to: string, body: string, type: string, timeout: number): Promise<unknown> {
    const ends = new AbortController();
    const timer = setTimeout(() => ends.abort(), timeout);
    try {
      const response = await this.#fetch(`${this.#url}/v1/auth/${to}`, {
        method: "POST",
        headers: { "content-type": type },
        body,
        signal: ends.signal,
        cache: "no-store",
        credentials: "omit",
      });
      const text = await response.text();
      if (response.ok) return text === "" ? undefined : (JSON.parse(text) as unknown);
      throw refusalOf(response, text);
    } catch (error) {
      if (error instanceof RoostError) throw error;
      throw new RoostError("unavailable", "No answer from the server.", { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

const FORM = "application/x-www-form-urlencoded";

interface Refusal {
  readonly code?: string;
  readonly detail?: string;
  readonly error?: string;
  readonly error_description?: string;
}

/** A refusal is a problem document, or in the shape of OAuth 2.0. */
function refusalOf(response: Response, text: string): RoostError {
  let refusal: Refusal = {};
  try {
    refusal = JSON.parse(text) as Refusal;
  } catch {
    // From something in between: the status says enough.
  }
  const after = Number(response.headers.get("retry-after") ?? Number.NaN);
  const known = refusal.error === "invalid_grant" ? SESSION_ENDED : (refusal.code ?? refusal.error);
  const code = known ?? (response.status >= 500 || response.status === 429 ? "unavailable" : "invalid_request");
  const detail = refusal.detail ?? refusal.error_description ?? `HTTP ${response.status}`;
  return new RoostError(code, detail, Number.isFinite(after) ? { retryAfter: after } : {});
}

function isPassing(error: RoostError): boolean {
  return ["unavailable", "overloaded", "rate_limited", "internal"].includes(error.code);
}

function tokensOf(answer: unknown, asked: number): Tokens {
  const { user, session, access_token, refresh_token, expires_in } = (answer ?? {}) as Record<string, unknown>;
  if (
    typeof user !== "string" ||
    typeof session !== "string" ||
    typeof access_token !== "string" ||
    typeof refresh_token !== "string" ||
    typeof expires_in !== "number"
  ) {
    throw new RoostError("internal", "This does not answer like a Roost server.");
  }
  // A server counts in whole seconds, so it may be less than one of them.
  const good = Math.max(expires_in - 1, expires_in / 2) * 1000;
  return {
    user,
    session,
    accessToken: access_token,
    refreshToken: refresh_token,
    renewedAt: asked,
    expiresAt: asked + good,
  };
}

function renewAt({ renewedAt, expiresAt }: Tokens): number {
  return expiresAt - Math.min(RENEW_MS, (expiresAt - renewedAt) / 5);
}

function defaultStore(name: string): LoginStore {
  return typeof localStorage === "undefined" ? memoryLogin() : browserLogin(name);
}

/** One after the other, whatever becomes of each. */
function queue(): LoginStore["alone"] {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const next = last.then(work);
    last = next.catch(() => undefined);
    return next;
  };
}

/** The same for all tabs. */
async function lock<T>(name: string, work: () => Promise<T>): Promise<T> {
  return (await navigator.locks.request(name, work)) as T;
}
