/** Who wants to know of what: a document (`collection/key`), a collection, `status`, or the `queue`: of any change. */

export class Listeners {
  readonly #byTopic = new Map<string, Set<() => void>>();

  /** Returns what ends it. */
  add(topic: string, listener: () => void): () => void {
    const own = (): void => listener();
    const listeners = this.#byTopic.get(topic) ?? new Set();
    this.#byTopic.set(topic, listeners.add(own));
    return () => {
      listeners.delete(own);
      if (listeners.size === 0 && this.#byTopic.get(topic) === listeners) this.#byTopic.delete(topic);
    };
  }

  /** A listener that throws harms nobody else; the error is reported like any that nobody caught. */
  tell(topic: string): void {
    for (const listener of [...(this.#byTopic.get(topic) ?? [])]) {
      try {
        listener();
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
