/**
 * The demo: two devices of one person in one page, and the log that they share.
 *
 * Each device is a whole client with a replica of its own in this browser, so a reload finds what was not sent yet. The
 * page itself follows the log besides, to show it grow.
 */

import { deleteIndexedDb, indexedDbStore, open } from "./client.js";
import { content, element, said, Screen } from "./screen.js";

const DEVICES = { laptop: "Laptop", phone: "Phone" };
const EVENTS_SHOWN = 60;
const RETRY_MS = 2_000;
const STEP_MS = 900;
const url = new URL("..", import.meta.url).href.replace(/\/$/, "");
const $ = (id) => document.getElementById(id);

/** The token and whom it is for: from the fragment, which no server sees, then from this tab's own memory. */
function credentials() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  const token = given ?? sessionStorage.getItem("token");
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return { token, user: claims.sub };
  } catch {
    return undefined;
  }
}

function notice(...text) {
  $("notice").hidden = false;
  $("notice").replaceChildren(...text);
}

/** The replicas of earlier demos, whose servers are gone. */
async function forgetOthers(user) {
  const known = (await indexedDB.databases?.()) ?? [];
  const others = known.map(({ name }) => name).filter((name) => name?.startsWith("demo ") && !name.startsWith(`demo ${user} `));
  await Promise.all(others.map((name) => deleteIndexedDb(name)));
}

/** Say whether both show the same. */
function compare(screens) {
  const [one, other] = screens.map(({ roost }) => content(roost));
  const together = $("together");
  together.hidden = false;
  together.className = one === other ? "same" : "";
  together.textContent = one === other ? "Both show the same" : "They differ";
}

// The log

const last = new Map();

/** What an event did, in a few words. */
function summary({ collection, key, kind, value }) {
  const before = last.get(`${collection}/${key}`);
  if (kind !== "delete") last.set(`${collection}/${key}`, value);
  if (collection === "roost_conflicts") return kind === "delete" ? "dismissed" : `${value.collection}/${value.key}`;
  if (kind === "delete") return `${before?.name ?? key} removed`;
  if (typeof value !== "object" || value === null) return said(value);
  const changed = Object.keys(value).filter((name) => JSON.stringify(value[name]) !== JSON.stringify(before?.[name]));
  const shown = before === undefined && value.name ? ["name"] : changed.filter((name) => name !== "order");
  const about = before?.name ? `${before.name}: ` : "";
  return about + (shown.map((name) => (name === "name" ? value.name : `${name} ${said(value[name])}`)).join(", ") || "the same");
}

function show(event) {
  const list = $("events");
  const atEnd = list.scrollLeft + list.clientWidth > list.scrollWidth - 40;
  const title = { preferences: "preferences", wishes: "wish", notes: "note", roost_conflicts: "set aside" }[event.collection];
  list.append(
    element(
      "li",
      { className: event.device in DEVICES ? event.device : "", title: JSON.stringify(event.value) },
      element("b", {}, String(event.seq)),
      element("i", {}, event.device ?? event.actor.split(":")[0]),
      ` ${title ?? event.collection}`,
      element("span", {}, summary(event)),
    ),
  );
  while (list.children.length > EVENTS_SHOWN) list.firstElementChild.remove();
  if (atEnd) list.scrollLeft = list.scrollWidth;
}

/** Show the log from its beginning, and go on as it grows. */
async function follow(user, token) {
  const headers = { authorization: `Bearer ${token}` };
  for (let after = 0; ; ) {
    try {
      const answer = await fetch(`${url}/v1/users/${encodeURIComponent(user)}/events?after=${after}&wait=25`, { headers });
      if (answer.status === 401) return notice("The token has ended: ", element("code", {}, "roost demo"), " gives another.");
      if (!answer.ok) throw new Error(answer.statusText);
      const log = await answer.json();
      log.events.forEach(show);
      after = log.seq;
      $("notice").hidden = true;
    } catch {
      notice("The server does not answer. What you do is kept, and sent when it is back.");
      await pause(RETRY_MS);
    }
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Both edit the same while they do not hear of each other, then meet again. */
async function play([laptop, phone]) {
  const steps = [
    () => laptop.connect(false),
    () => phone.connect(false),
    () => laptop.preferences.set("ui", "/theme", "dark"),
    () => laptop.preferences.inc("ui", "/tea", 2),
    () => laptop.wish("A head torch"),
    () => laptop.write("Ask Grace about the boat"),
    () => phone.preferences.set("ui", "/theme", "light"),
    () => phone.preferences.inc("ui", "/tea"),
    () => phone.wish("Thick socks"),
    () => phone.write("Ask Grace about the tent"),
    () => laptop.connect(true),
    () => phone.connect(true),
  ];
  $("play").disabled = true;
  for (const step of steps) {
    step();
    await pause(STEP_MS);
  }
  $("play").disabled = false;
}

async function main() {
  const known = credentials();
  addEventListener("hashchange", () => location.reload());
  if (known === undefined) {
    notice("This page needs the token of a user: ", element("code", {}, "roost demo"), " opens it with one.");
    return;
  }
  const { token, user } = known;
  await forgetOthers(user);
  const screens = [];
  for (const [device, title] of Object.entries(DEVICES)) {
    const roost = await open({ url, user, token, device, store: indexedDbStore(`demo ${user} ${device}`) });
    screens.push(new Screen(roost, title, () => screens.length === 2 && compare(screens)));
  }
  $("devices").replaceChildren(...screens.map(({ root }) => root));
  compare(screens);
  $("play").hidden = $("log").hidden = false;
  $("play").addEventListener("click", () => play(screens));
  $("log-of").textContent = `of ${user}`;
  await follow(user, token);
}

main().catch((error) => notice(`This does not work here: ${error.message ?? error}`));
