/** Waiting for what another party does. */

import assert from "node:assert/strict";

/** How often to look: what stops the whole machine for a while takes nothing away from it. */
const LOOKS = 8_000;

/** Resolves once the condition holds; fails when it does not in time. */
export async function until(condition: () => boolean): Promise<void> {
  for (let look = 0; !condition(); look++) {
    assert(look < LOOKS, `not in time: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
