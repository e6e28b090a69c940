/** The test vectors that every client runs: see `tests/vectors/README.md` at the root. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import type { Draft } from "../src/draft.js";
import type { Edit } from "../src/edits.js";
import { apply, check, difference, fits } from "../src/edits.js";
import { RoostError } from "../src/errors.js";
import { serverFrame } from "../src/frames.js";
import type { Json } from "../src/json.js";
import { equal } from "../src/json.js";
import type { Frame, Mutation, Page, Result } from "../src/protocol.js";
import { microseconds } from "../src/protocol.js";
import { paged } from "../src/reading.js";
import type { Outcome } from "../src/replica.js";
import { blank, numbered, Replica } from "../src/replica.js";

function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../../tests/vectors/${name}`, import.meta.url), "utf8")) as T;
}

interface EditVectors {
  apply: { name: string; before?: Json; edits: Edit[]; after?: Json }[];
  fits: { name: string; value?: Json; edit: Edit; fits: boolean }[];
  difference: { name: string; before?: Json; after?: Json; edits: Edit[] }[];
  bad: { name: string; edits: Edit[]; pointer: string }[];
}

const edits = vectors<EditVectors>("edits.json");

for (const vector of edits.apply) {
  test(`apply: ${vector.name}`, () => {
    const found = apply(vector.before, vector.edits);
    assert(equal(found, vector.after), JSON.stringify(found));
  });
}

for (const vector of edits.fits) {
  test(`fits: ${vector.name}`, () => assert.equal(fits(vector.value, vector.edit), vector.fits));
}

for (const vector of edits.difference) {
  test(`difference: ${vector.name}`, () => {
    assert.deepEqual(difference(vector.before, vector.after), vector.edits);
    assert(equal(apply(vector.before, vector.edits), vector.after));
  });
}

for (const vector of edits.bad) {
  test(`no edits: ${vector.name}`, () => {
    assert.throws(
      () => check(vector.edits),
      (error: RoostError) => error.code === "invalid_request" && error.pointer === vector.pointer,
    );
  });
}

interface FrameVectors {
  server: { name: string; frame?: Json; text?: string; valid: boolean }[];
}

for (const vector of vectors<FrameVectors>("frames.json").server) {
  test(`frames: ${vector.name}`, () => {
    const text = vector.text ?? JSON.stringify(vector.frame);
    if (vector.valid) assert.deepEqual(serverFrame(text), vector.frame);
    else assert.throws(() => serverFrame(text), RoostError);
  });
}

interface Local {
  do: "put" | "edit" | "merge" | "delete";
  collection: string;
  key: string;
  value: Json;
  edits: Edit[];
  patch: Json;
}

type Step = { expect: Expected } & (
  | (Local & { now: number })
  | { do: "transaction"; now: number; ops: Local[] }
  | { do: "receive"; frame: Frame }
  | { do: "snapshot"; seq: number; documents: (Page["items"][number] & { collection: string })[] }
  | { do: "rename"; device: string }
  | { do: "restart" }
);

interface Expected {
  view: Record<string, Record<string, Json>>;
  siblings?: Record<string, Record<string, Json[]>>;
  push: Mutation[];
  pending: number[];
  cursor: number | null;
  clock: number;
  then?: string;
  error?: string;
  results?: Result[];
}

interface Scenario {
  name: string;
  device: string;
  collections?: string[];
  steps: Step[];
}

for (const scenario of vectors<Scenario[]>("replica.json")) {
  test(`replica: ${scenario.name}`, () => {
    const collections = scenario.collections && [...scenario.collections, "roost_conflicts"];
    let replica = new Replica(blank(scenario.device), collections);
    for (const [index, step] of scenario.steps.entries()) {
      if (step.do === "restart") replica = new Replica(JSON.parse(JSON.stringify(replica.saved())), collections);
      const { outcome, error } = done(replica, step);
      const seen = { ...shown(replica), ...told(outcome), ...(error === undefined ? {} : { error }) };
      const { siblings, then: next, ...rest } = step.expect;
      const expected = { ...rest, ...(next === undefined ? {} : { next }), siblings: siblings ?? {} };
      assert.deepEqual(seen, expected, `step ${index}: ${step.do}`);
    }
  });
}

function done(replica: Replica, step: Step): { outcome: Outcome; error?: string } {
  try {
    const outcome = outcomeOf(replica, step);
    if (outcome.change !== undefined) replica.absorb(outcome.change);
    return { outcome };
  } catch (error) {
    if (!(error instanceof RoostError)) throw error;
    return { outcome: {}, error: error.code };
  }
}

function outcomeOf(replica: Replica, step: Step): Outcome {
  switch (step.do) {
    case "restart":
      return {};
    case "rename":
      return replica.rename(step.device);
    case "receive":
      return received(replica, serverFrame(JSON.stringify(step.frame)));
    case "snapshot": {
      const documents = step.documents.map((item) => paged(item.collection, item));
      return replica.snapshot(
        documents,
        step.seq,
        Math.max(0, ...step.documents.map((item) => microseconds(item.updated_at))),
      );
    }
    default: {
      const draft = replica.draft();
      for (const op of step.do === "transaction" ? step.ops : [step]) local(draft, op);
      const unsaved = replica.add(draft, step.now);
      if (unsaved === undefined) return {};
      // What is not saved yet looks as it does afterwards.
      const before = JSON.stringify(shown(replica).view);
      replica.absorb(numbered([unsaved], replica.meta), 1);
      assert.equal(JSON.stringify(shown(replica).view), before);
      return { next: "push" };
    }
  }
}

function received(replica: Replica, frame: Frame): Outcome {
  switch (frame.type) {
    case "welcome":
      return replica.welcome(frame.seq, frame.number);
    case "events":
      return replica.events(frame.events, frame.seq, frame.after);
    case "pushed":
      return replica.pushed(frame.results);
    case "refused":
      return replica.refused(frame.code, frame.expected);
    default:
      return {};
  }
}

function local(draft: Draft, op: Local): void {
  if (op.do === "put") draft.put(op.collection, op.key, op.value);
  else if (op.do === "edit") draft.edit(op.collection, op.key, op.edits);
  else if (op.do === "merge") draft.merge(op.collection, op.key, op.patch);
  else draft.delete(op.collection, op.key);
}

function shown(replica: Replica): Omit<Expected, "then" | "error" | "results"> {
  const view: Record<string, Record<string, Json>> = {};
  const siblings: Record<string, Record<string, Json[]>> = {};
  for (const name of replica.names()) {
    for (const document of replica.documents(name)) {
      (view[name] ??= {})[document.key] = document.value;
      if (document.siblings.length > 0) (siblings[name] ??= {})[document.key] = [...document.siblings];
    }
  }
  const { cursor, clock } = replica.meta;
  return { view, siblings, push: replica.outgoing(), pending: [...replica.queue.keys()], cursor, clock };
}

function told(outcome: Outcome): Pick<Outcome, "next" | "results"> {
  const results = outcome.results ?? [];
  return {
    ...(outcome.next === undefined ? {} : { next: outcome.next }),
    ...(results.length === 0 ? {} : { results: [...results] }),
  };
}
