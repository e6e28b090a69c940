/** The ways to change documents of one collection: each at once, or several in one step. */

import type { Draft } from "./draft.js";
import type { Edit } from "./edits.js";
import { pathOf } from "./edits.js";
import type { Json } from "./json.js";

/** A place in a document: a JSON Pointer (`"/theme"`; `""` is the whole value), or the names on the way to it. */
export type Path = string | readonly string[];

/** Does something to a draft, now or together with other things. */
export type Run<Done> = (make: (draft: Draft) => void) => Done;

/**
 * What can be done to a collection. `Done` is what each gives back. Each throws a `RoostError`, and then has done
 * nothing, for what can never take effect: a bad name or value, a counter that is a text.
 */
export class Editor<T, Done> {
  readonly name: string;
  readonly #run: Run<Done>;

  constructor(name: string, run: Run<Done>) {
    this.name = name;
    this.#run = run;
  }

  /** The document's value is now this. What differs from what is there is what is merged with others' edits. */
  put(key: string, value: T): Done {
    return this.#run((draft) => draft.put(this.name, key, value));
  }

  /** Change it by a JSON Merge Patch: null removes a member, objects merge, anything else replaces. */
  merge(key: string, patch: unknown): Done {
    return this.#run((draft) => draft.merge(this.name, key, patch));
  }

  /** The document goes. */
  delete(key: string): Done {
    return this.#run((draft) => draft.delete(this.name, key));
  }

  /** The value at `path` is now this. */
  set(key: string, path: Path, value: unknown): Done {
    return this.edit(key).set(path, value).save();
  }

  /** The member at `path` goes. */
  unset(key: string, path: Path): Done {
    return this.edit(key).unset(path).save();
  }

  /** The counter at `path` goes up (or down); everybody's steps count. */
  inc(key: string, path: Path, by: number = 1): Done {
    return this.edit(key).inc(path, by).save();
  }

  /** `element` is in the set (an array) at `path`. */
  add(key: string, path: Path, element: unknown): Done {
    return this.edit(key).add(path, element).save();
  }

  /** `element` is not in the set at `path`. */
  remove(key: string, path: Path, element: unknown): Done {
    return this.edit(key).remove(path, element).save();
  }

  /** Several edits of one document: `edit(key).set("/a", 1).inc("/n").save()`. */
  edit(key: string): Edits<Done> {
    return new Edits((edits) => this.#run((draft) => draft.edit(this.name, key, edits)));
  }
}

/** Edits of one document, gathered until `save`. */
export class Edits<Done> {
  readonly #edits: Edit[] = [];
  readonly #save: (edits: readonly Edit[]) => Done;

  constructor(save: (edits: readonly Edit[]) => Done) {
    this.#save = save;
  }

  set(path: Path, value: unknown): this {
    return this.#with("set", path, value);
  }

  unset(path: Path): this {
    this.#edits.push({ op: "unset", path: pointer(path) });
    return this;
  }

  inc(path: Path, by: number = 1): this {
    return this.#with("inc", path, by);
  }

  add(path: Path, element: unknown): this {
    return this.#with("add", path, element);
  }

  remove(path: Path, element: unknown): this {
    return this.#with("remove", path, element);
  }

  save(): Done {
    return this.#save(this.#edits);
  }

  #with(op: "set" | "inc" | "add" | "remove", path: Path, value: unknown): this {
    // A draft checks what it is given.
    this.#edits.push({ op, path: pointer(path), value: value as Json });
    return this;
  }
}

function pointer(path: Path): string {
  return typeof path === "string" ? path : pathOf(path);
}
