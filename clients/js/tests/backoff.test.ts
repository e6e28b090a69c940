/** Pauses: full jitter within growing bounds, and never sooner than the server asked for. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { delay, pause } from "../src/backoff.js";

test("pauses grow up to a bound, with full jitter", () => {
  const longest = [0, 1, 2, 3, 20, 2000].map((attempt) => delay(attempt, () => 1));
  assert.deepEqual(longest, [500, 1_000, 2_000, 4_000, 30_000, 30_000]);
  assert.equal(
    delay(9, () => 0),
    0,
  );
});

test("never sooner than Retry-After, and not all at that moment", () => {
  assert.equal(
    delay(0, () => 0, 7),
    7_000,
  );
  assert.equal(
    delay(1, () => 0.5, 7),
    7_500,
  );
});

test("a pause ends early when it is told to", async () => {
  const told = new AbortController();
  const paused = pause(1_000_000, told.signal);
  told.abort();
  await paused;
  await pause(1_000_000, told.signal);
});
