/** The React hooks: rendered on a server for what they show at first, and driven for what they show then. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { createElement } from "react";
import { renderToString } from "react-dom/server";
import type { Roost } from "../src/index.js";
import { memoryStore, open } from "../src/index.js";
import { useCollection, useDocument, useStatus } from "../src/react.js";

function Cart({ roost }: { roost: Roost }) {
  const cart = useDocument<{ apples: number }>(roost, "carts", "main");
  const wishes = useCollection<string>(roost, "wishes");
  const { pending } = useStatus(roost);
  return (
    <p>
      {cart?.value.apples ?? "none"} | {wishes.map((wish) => wish.value).join(",")} | {pending}
    </p>
  );
}

test("a component shows what the replica has", async () => {
  const roost = await open({ url: "http://127.0.0.1:9", user: "ada", token: "", store: memoryStore(), connect: false });
  const shown = (): string => renderToString(createElement(Cart, { roost })).replaceAll(/<[^>]+>/g, "");
  assert.equal(shown(), "none |  | 0");
  await roost.collection("carts").inc("main", "/apples", 2);
  await roost.collection("wishes").put("a", "bicycle");
  assert.equal(shown(), "2 | bicycle | 2");
  await roost.close();
});
