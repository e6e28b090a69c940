/** How a device is doing, as an application may want to show it. */

import type { ConnectionState } from "./connection.js";
import type { Presence } from "./protocol.js";

export interface Status {
  /** `live`: the log was read to its end, and what comes next comes at once. */
  readonly connection: ConnectionState;
  /** Why it is not live, where there is a reason to know of; or, live, why what was edited is not taken just now. */
  readonly error?: { readonly code: string; readonly detail: string };
  /** The user's devices that are connected, this one too. */
  readonly devices: readonly Presence[];
  /** How many edits the server has not answered yet. */
  readonly pending: number;
  /** Whether this tab holds the connection. */
  readonly leader: boolean;
  /** This device's name. */
  readonly device: string;
}
