/** Waiting for what another party does. */

import assert from "node:assert/strict";

/** Resolves once the condition holds; fails when it does not in time. */
export async function until(condition: () => boolean, patience = 8_000): Promise<void> {
  const deadline = performance.now() + patience;
  while (!condition()) {
    assert(performance.now() < deadline, `not in time: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
