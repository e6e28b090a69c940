/**
 * A store in one file, for Node: a log of changes, one JSON line each, written anew once most of it is past.
 *
 * A line is a checksum and a change. A commit is done once its line is on the disk (`fdatasync`); commits that arrive
 * meanwhile share the next write. A crash can only leave a torn end, which is cut off when the file is opened; a bad
 * line with good ones behind it is damage, and said so. Writing anew goes to a second file that then takes the
 * place of the first. One process at a time: a lock file beside it names the one.
 */

import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { open, readFile, rename, rm } from "node:fs/promises";
import { dirname, resolve } from "node:path";

import { RoostError } from "../errors.js";
import type { Saved } from "../replica.js";
import { blank, Replica } from "../replica.js";
import { lock, unlock } from "./lock.js";
import { after } from "./memory.js";
import type { Commit, Header, Loaded, Store } from "./store.js";

/** Below this size a file is never written anew. */
const SMALL_BYTES = 1 << 20;

/** `path` is the file's; its folder must exist. */
export function fileStore(path: string, options: { rewriteBytes?: number } = {}): Store {
  return new FileStore(resolve(path), options.rewriteBytes ?? SMALL_BYTES);
}

interface Waiting {
  readonly decide: (header: Header) => Commit | undefined;
  readonly done: (header: Header | undefined) => void;
  readonly failed: (error: unknown) => void;
}

/** The first line has a header besides: it says everything. */
interface Line extends Commit {
  readonly header?: Header;
}

class FileStore implements Store {
  readonly #path: string;
  readonly #rewriteBytes: number;
  #file: FileHandle | undefined;
  #header: Header | undefined;
  #kept: Replica | undefined;
  #bytes = 0;
  #rewriteAt: number;
  #waiting: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #broken: unknown;

  constructor(path: string, rewriteBytes: number) {
    this.#path = path;
    this.#rewriteBytes = rewriteBytes;
    this.#rewriteAt = rewriteBytes;
  }

  async load(first: Saved): Promise<Loaded> {
    if (this.#file !== undefined) throw new RoostError("locked", `${this.#path} is open already.`);
    await lock(this.#path);
    try {
      await this.#read(first);
    } catch (error) {
      await unlock(this.#path);
      throw error;
    }
    if (this.#kept === undefined || this.#header === undefined) throw new Error("unreachable");
    return { ...this.#kept.saved(), ...this.#header };
  }

  commit(decide: (header: Header) => Commit | undefined): Promise<Header | undefined> {
    return new Promise((done, failed) => {
      this.#waiting.push({ decide, done, failed });
      this.#writing ??= this.#drain();
    });
  }

  async close(): Promise<void> {
    await this.#writing;
    if (this.#file === undefined) return;
    await this.#file.close();
    this.#file = undefined;
    await unlock(this.#path);
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0);
      try {
        for (const [one, header] of await this.#write(batch)) one.done(header);
      } catch (error) {
        for (const one of batch) one.failed(error);
      }
    }
    this.#writing = undefined; // at once: a commit that comes now begins anew
  }

  /** Write a batch with one sync. Once a write has failed, nobody knows what is in the file: no more is written. */
  async #write(batch: readonly Waiting[]): Promise<[Waiting, Header | undefined][]> {
    if (
      this.#file === undefined ||
      this.#header === undefined ||
      this.#kept === undefined ||
      this.#broken !== undefined
    ) {
      throw new RoostError("storage", `${this.#path} is not open for writing.`, { cause: this.#broken });
    }
    let header = this.#header;
    const commits: Commit[] = [];
    const made: [Waiting, Header | undefined][] = [];
    for (const one of batch) {
      let commit: Commit | undefined;
      try {
        commit = one.decide(header);
      } catch (error) {
        one.failed(error); // its own fault, and nobody else's
        continue;
      }
      if (commit !== undefined) {
        header = after(header, commit);
        commits.push(commit);
      }
      made.push([one, commit === undefined ? undefined : header]);
    }
    if (commits.length > 0) {
      const lines = commits.map((commit) => line(commit)).join("");
      try {
        await this.#file.appendFile(lines);
        await this.#file.datasync();
      } catch (error) {
        this.#broken = error;
        throw new RoostError("storage", `${this.#path}: ${String(error)}`, { cause: error });
      }
      this.#bytes += Buffer.byteLength(lines);
      for (const commit of commits) this.#kept.absorb(commit.change);
      this.#header = header;
      // What is forgotten as a whole is not to stay in the lines before.
      const emptied = commits.some(({ change }) => change.allDocuments && change.allEntries);
      if (emptied || this.#bytes > this.#rewriteAt) await this.#tryRewrite(emptied);
    }
    return made;
  }

  async #read(first: Saved): Promise<void> {
    const bytes = await readFile(this.#path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    this.#header = { meta: first.meta, revision: 0, epoch: 0 };
    this.#kept = new Replica(first);
    if (bytes !== undefined) {
      const good = this.#replay(bytes);
      this.#file = await open(this.#path, "r+");
      await this.#file.truncate(good);
      await this.#file.close();
      this.#bytes = good;
    }
    this.#file = await open(this.#path, "a");
    if (this.#bytes === 0) await this.#rewrite();
  }

  /** Take in every line. Returns how many bytes of them are good. */
  #replay(bytes: Buffer): number {
    let good = 0;
    let bad: number | undefined;
    for (let start = 0, end = 0; start < bytes.length; start = end) {
      const feed = bytes.indexOf(10, start);
      end = feed < 0 ? bytes.length : feed + 1;
      const commit = feed < 0 ? undefined : parsed(bytes.toString("utf8", start, feed));
      if (commit === undefined) bad ??= start;
      else if (bad !== undefined) {
        throw new RoostError("storage", `${this.#path} is damaged at byte ${bad}.`);
      } else {
        if (commit.header !== undefined) {
          this.#header = commit.header;
          this.#kept = new Replica({ ...blank(""), meta: commit.header.meta });
        } else {
          this.#header = after(this.#header as Header, commit);
        }
        this.#kept?.absorb(commit.change);
        good = end;
      }
    }
    return good;
  }

  /** What was committed stays so, whether there is room to write it anew or not; where not, it is tried again later. */
  async #tryRewrite(urgent: boolean): Promise<void> {
    try {
      await this.#rewrite();
    } catch {
      this.#rewriteAt = urgent ? 0 : this.#bytes + this.#rewriteBytes;
    }
  }

  /** The same state in one line, in a new file. */
  async #rewrite(): Promise<void> {
    const header = this.#header as Header;
    const saved = (this.#kept as Replica).saved();
    const change = { documents: saved.documents, entries: saved.queue, allDocuments: true, allEntries: true };
    const text = line({ header, change });
    const fresh = `${this.#path}.new`;
    const file = await open(fresh, "w");
    try {
      await file.appendFile(text);
      await file.sync();
      await rename(fresh, this.#path);
    } catch (error) {
      await file.close().catch(() => undefined);
      await rm(fresh, { force: true }).catch(() => undefined);
      throw error;
    }
    const before = this.#file;
    this.#file = file;
    await before?.close().catch(() => undefined);
    await syncFolder(dirname(this.#path));
    this.#bytes = Buffer.byteLength(text);
    this.#rewriteAt = Math.max(this.#rewriteBytes, 2 * this.#bytes);
  }
}

function line(commit: Line): string {
  const text = JSON.stringify(commit);
  return `${checksum(text)} ${text}\n`;
}

function parsed(text: string): Line | undefined {
  const json = text.slice(9);
  return text.slice(0, 8) === checksum(json) ? (JSON.parse(json) as Line) : undefined;
}

function checksum(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 8);
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(() => undefined); // Windows has none
  await folder?.sync().catch(() => undefined);
  await folder?.close();
}
