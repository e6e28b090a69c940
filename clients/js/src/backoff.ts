/** How long to wait before the next try: full jitter, so that many devices do not come back in one moment. */

const FIRST_MS = 500;
const LAST_MS = 30_000;

/** Milliseconds to wait after attempt number `attempt` (from 0); never less than a server's `retryAfter` (seconds). */
export function delay(attempt: number, random: () => number, retryAfter = 0): number {
  return retryAfter * 1000 + random() * Math.min(LAST_MS, FIRST_MS * 2 ** attempt);
}

/** Resolves after a while, or as soon as the signal is aborted. Does not keep a process alive by itself. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, Math.min(milliseconds, 2 ** 31 - 1));
    signal.addEventListener("abort", done, { once: true });
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
