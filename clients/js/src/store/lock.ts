/** A lock file, which names the one process that holds what is beside it. A process that is gone holds nothing. */

import { readFile, rm, writeFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";

import { RoostError } from "../errors.js";

/** How long a lock may be without its owner's name, because that is just being written. */
const UNNAMED_MS = 100;

const inThisProcess = new Set<string>();

/** Hold the lock of `path`. Throws `locked`. */
export async function lock(path: string): Promise<void> {
  const held = new RoostError("locked", `${path} is in use by another process (${path}.lock).`);
  if (inThisProcess.has(path)) throw held;
  inThisProcess.add(path);
  try {
    while (!(await made(`${path}.lock`))) {
      const owner = await ownerOf(`${path}.lock`);
      if (isAlive(owner) || !(await cleared(path, owner))) throw held;
    }
  } catch (error) {
    inThisProcess.delete(path);
    throw error;
  }
}

/** Let go of it. */
export async function unlock(path: string): Promise<void> {
  await rm(`${path}.lock`, { force: true });
  inThisProcess.delete(path);
}

/**
 * Remove the lock of a process that is gone. Whoever has made the file for that may do so, and nobody else: one who is
 * late would remove the lock of one who was first. False where somebody else is about it.
 */
async function cleared(path: string, owner: number): Promise<boolean> {
  const permit = `${path}.lock.${owner}`;
  if (await made(permit)) {
    if ((await ownerOf(`${path}.lock`)) === owner) await rm(`${path}.lock`, { force: true });
  } else if (isAlive(await ownerOf(permit))) {
    return false;
  }
  await rm(permit, { force: true });
  return true;
}

/** Make a file with the name of this process; false where there is one. */
async function made(file: string): Promise<boolean> {
  try {
    await writeFile(file, String(process.pid), { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** The process that a file names; 0 where there is none. */
async function ownerOf(file: string): Promise<number> {
  const read = (): Promise<string> => readFile(file, "utf8").catch(() => "0");
  let text = await read();
  if (text === "") {
    await setTimeout(UNNAMED_MS);
    text = await read();
  }
  const owner = Number(text);
  return Number.isSafeInteger(owner) && owner > 0 ? owner : 0;
}

/** Whether somebody else has a process id. One that is ours was another's before. */
function isAlive(pid: number): boolean {
  if (pid === 0 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
