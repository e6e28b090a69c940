/** Hooks for React: a component shows what the replica has, and again whenever that changes. */

import { useCallback, useSyncExternalStore } from "react";

import type { Document, Roost, Status } from "./index.js";

/** A document; undefined where there is none. */
export function useDocument<T = unknown>(roost: Roost, collection: string, key: string): Document<T> | undefined {
  const documents = roost.collection<T>(collection);
  const subscribe = useCallback((changed: () => void) => documents.watch(key, changed), [documents, key]);
  const current = (): Document<T> | undefined => documents.document(key);
  return useSyncExternalStore(subscribe, current, current);
}

/** All documents of a collection, by key. */
export function useCollection<T = unknown>(roost: Roost, collection: string): readonly Document<T>[] {
  const documents = roost.collection<T>(collection);
  const subscribe = useCallback((changed: () => void) => documents.subscribe(changed), [documents]);
  const current = (): readonly Document<T>[] => documents.list();
  return useSyncExternalStore(subscribe, current, current);
}

/** How the device is doing: connected, edits that wait, other devices. */
export function useStatus(roost: Roost): Status {
  const subscribe = useCallback((changed: () => void) => roost.subscribe(changed), [roost]);
  const current = (): Status => roost.status;
  return useSyncExternalStore(subscribe, current, current);
}
