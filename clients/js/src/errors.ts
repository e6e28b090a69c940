/** Every way in which Roost, or this client, says no: a stable code and a sentence for a person. */

/** The user was erased: nothing is left, and nothing will come. */
export const ERASED = "user_erased";

/**
 * The server's codes (see its API page), and the client's own: `closed`, `locked`, `session_ended`, `storage`, `token`.
 */
export type Code = string;

export class RoostError extends Error {
  readonly code: Code;
  /** A JSON Pointer to what was wrong in the request, where that is known. */
  readonly pointer: string | undefined;
  /** In how many seconds trying again may help. */
  readonly retryAfter: number | undefined;

  constructor(code: Code, detail: string, more: { pointer?: string; retryAfter?: number; cause?: unknown } = {}) {
    super(detail, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "RoostError";
    this.code = code;
    this.pointer = more.pointer;
    this.retryAfter = more.retryAfter;
  }
}
