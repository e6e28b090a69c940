/**
 * One device of the demo: what a person sees of a replica, and what they do to it.
 *
 * Nothing here waits for the network. Everything shown is read from the replica, everything done is an edit of it; what
 * comes from elsewhere arrives through the same listeners as what was done here.
 */

const THEMES = ["auto", "light", "dark"];
const SIZES = { least: 12, most: 20 };
const WORDS = {
  en: {
    name: "English", preferences: "Preferences", theme: "Theme", auto: "Auto", light: "Light", dark: "Dark",
    language: "Language", size: "Text size", tea: "Cups of tea", wishes: "Wish list", add: "Add", wish: "Something nice",
    done: "done", note: "Note", save: "Save", wrote: "Both devices wrote. Nobody chose yet:", keep: "Keep",
    both: "Keep both", inbox: "Set aside", nothing: "Nothing was lost to a conflict.", kept: "kept", lost: "lost",
    instead: "Use this instead", dismiss: "Dismiss", removed: "removed", unsent: "not sent",
  },
  de: {
    name: "Deutsch", preferences: "Einstellungen", theme: "Farben", auto: "Auto", light: "Hell", dark: "Dunkel",
    language: "Sprache", size: "Schriftgröße", tea: "Tassen Tee", wishes: "Wunschliste", add: "Dazu", wish: "Etwas Schönes",
    done: "erledigt", note: "Notiz", save: "Sichern", wrote: "Beide Geräte schrieben. Noch wählte niemand:", keep: "Behalten",
    both: "Beide behalten", inbox: "Beiseitegelegt", nothing: "Kein Konflikt hat etwas verdrängt.", kept: "bleibt", lost: "wich",
    instead: "Doch dieses", dismiss: "Schon gut", removed: "gelöscht", unsent: "ungesendet",
  },
  fr: {
    name: "Français", preferences: "Préférences", theme: "Thème", auto: "Auto", light: "Clair", dark: "Sombre",
    language: "Langue", size: "Taille du texte", tea: "Tasses de thé", wishes: "Envies", add: "Ajouter", wish: "Une envie",
    done: "fait", note: "Note", save: "Garder", wrote: "Deux versions, aucune choisie :", keep: "Garder",
    both: "Garder les deux", inbox: "Mis de côté", nothing: "Aucun conflit n’a rien écarté.", kept: "gardé", lost: "écarté",
    instead: "Plutôt celle-ci", dismiss: "D’accord", removed: "supprimé", unsent: "en attente",
  },
};
/** How long a device may be at it before it says so: what takes a blink need not flicker. */
const BLINK_MS = 250;

/** An element; text always goes in as text, so nothing that a person writes can be markup. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** What both devices should come to agree on, as one string. */
export function content(roost) {
  const documents = ["preferences", "wishes", "notes"].flatMap((name) => roost.collection(name).list());
  return JSON.stringify(documents.map(({ collection, key, value, siblings }) => [collection, key, value, siblings]));
}

export class Screen {
  /** Show `roost` as a copy of the template. `changed` is called whenever something may look different. */
  constructor(roost, title, changed) {
    this.roost = roost;
    this.preferences = roost.collection("preferences");
    this.wishes = roost.collection("wishes");
    this.notes = roost.collection("notes");
    /** Of wishes, those that are gone too: a conflict may be about one. */
    this.names = new Map();
    this.root = document.getElementById("device").content.cloneNode(true).firstElementChild;
    this.root.classList.add(roost.device);
    this.find(".name").textContent = title;
    this.listen();
    const draws = [
      [this.preferences, () => this.drawPreferences()],
      [this.wishes, () => this.drawWishes()],
      [this.notes, () => this.drawNote()],
      [roost.collection("roost_conflicts"), () => this.drawInbox()],
      [roost, () => this.drawStatus()],
    ];
    for (const [source, draw] of draws) {
      draw();
      source.subscribe(() => {
        draw();
        changed();
      });
    }
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  get ui() {
    return { theme: "auto", language: "en", size: 15, tea: 0, ...this.preferences.get("ui") };
  }

  get words() {
    return WORDS[this.ui.language] ?? WORDS.en;
  }

  // What the person does

  listen() {
    const on = (selector, type, act) => this.find(selector).addEventListener(type, act);
    const set = (name, value) => this.preferences.set("ui", `/${name}`, value);
    on(".network", "change", ({ target }) => this.connect(target.checked));
    for (const theme of THEMES) {
      this.find(".themes").append(element("button", { value: theme, onclick: () => set("theme", theme) }));
    }
    for (const [code, { name }] of Object.entries(WORDS)) {
      this.find(".languages").append(element("option", { value: code }, name));
    }
    on(".languages", "change", ({ target }) => set("language", target.value));
    on(".smaller", "click", () => set("size", Math.max(SIZES.least, this.ui.size - 1)));
    on(".larger", "click", () => set("size", Math.min(SIZES.most, this.ui.size + 1)));
    on(".less", "click", () => this.preferences.inc("ui", "/tea", -1));
    on(".more", "click", () => this.preferences.inc("ui", "/tea"));
    on(".add", "submit", (event) => {
      event.preventDefault();
      this.wish(this.find(".wish").value.trim());
      this.find(".wish").value = "";
    });
    on(".text", "input", () => this.drawSave());
    on(".write", "submit", (event) => {
      event.preventDefault();
      this.write(this.find(".text").value);
    });
  }

  connect(on) {
    this.find(".network").checked = on;
    if (on) this.roost.connect();
    else this.roost.disconnect();
  }

  wish(name) {
    if (name === "") return;
    const readable = name.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 40);
    const key = `${readable}-${Math.random().toString(36).slice(2, 6)}`;
    this.wishes.put(key, { name, done: false, order: Date.now() });
  }

  write(text) {
    this.notes.put("note", text);
    this.drawNote();
  }

  /** Take what lost after all, and the conflict out of the inbox. */
  reverse({ id, collection, key, lost }) {
    this.roost.transaction((transaction) => {
      const documents = transaction.collection(collection);
      if (lost.edits) for (const { path, value } of lost.edits) documents.set(key, path, value);
      else if (lost.value === null) documents.delete(key);
      else documents.put(key, lost.value);
      transaction.collection("roost_conflicts").delete(id);
    });
  }

  // What the person sees

  drawStatus() {
    const { connection, pending, devices, error } = this.roost.status;
    const busy = connection === "connecting" || (connection === "live" && pending > 0);
    const state = busy ? "syncing" : connection;
    const show = () => {
      const status = this.find(".status");
      status.className = `status ${state}`;
      status.textContent = state;
      status.title = error?.detail ?? "";
      this.find(".pending").textContent = pending === 0 ? "" : `${pending} edit${pending === 1 ? "" : "s"} waiting`;
      const others = devices.map(({ device }) => device).filter((device) => device !== this.roost.device);
      this.find(".with").textContent = connection === "live" && others.length > 0 ? `with ${others.join(", ")}` : "";
    };
    clearTimeout(this.late);
    if (connection === "live" && busy) this.late = setTimeout(show, BLINK_MS);
    else show();
  }

  drawPreferences() {
    const { theme, language, size, tea } = this.ui;
    const words = this.words;
    const screen = this.find(".screen");
    screen.dataset.theme = theme;
    screen.lang = language;
    screen.style.setProperty("--size", size);
    screen.style.setProperty("--unsent", JSON.stringify(words.unsent));
    for (const place of this.root.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
    this.find(".wish").placeholder = words.wish;
    this.find(".wish").setAttribute("aria-label", words.wish);
    this.find(".text").setAttribute("aria-label", words.note);
    for (const button of this.find(".themes").children) {
      button.textContent = words[button.value];
      button.setAttribute("aria-pressed", button.value === theme);
    }
    for (const [selector, label] of [[".smaller", "size"], [".larger", "size"], [".less", "tea"], [".more", "tea"]]) {
      const button = this.find(selector);
      button.setAttribute("aria-label", `${words[label]} ${button.textContent}`);
    }
    this.find(".languages").value = language;
    this.find("output.size").textContent = size;
    this.find("output.tea").textContent = tea;
    this.unsent(".preferences h3", this.preferences.document("ui")?.pending);
    this.drawNote();
    this.drawInbox();
  }

  drawWishes() {
    for (const { key, value } of this.wishes.list()) if (value.name) this.names.set(key, String(value.name));
    const wishes = [...this.wishes.list()].sort((a, b) => (a.value.order ?? 0) - (b.value.order ?? 0));
    const items = wishes.map(({ key, value, pending }) => {
      const box = element("input", { type: "checkbox", checked: value.done === true });
      box.addEventListener("change", () => this.wishes.set(key, "/done", box.checked));
      const called = this.names.get(key) ?? key;
      const name = element("span", {}, called);
      const label = element("label", { className: pending ? "unsent" : "" }, box, name);
      const gone = element("button", { className: "gone", onclick: () => this.wishes.delete(key) }, "×");
      gone.setAttribute("aria-label", `× ${called}`);
      return element("li", { className: value.done ? "done" : "" }, label, gone);
    });
    this.find(".list").replaceChildren(...items);
  }

  drawNote() {
    const note = this.notes.document("note");
    const text = this.find(".text");
    const versions = this.find(".versions");
    // What is being written is not written over.
    if (document.activeElement !== text || text.value === this.noted) text.value = note?.value ?? "";
    this.noted = note?.value ?? "";
    const values = note === undefined ? [] : [...note.siblings, note.value];
    versions.hidden = values.length < 2;
    this.find(".write").hidden = values.length > 1;
    const { keep, both, wrote } = this.words;
    const choice = (name, value) => element("button", { onclick: () => this.write(value) }, name);
    const choices = values.map((value) => element("div", {}, element("span", {}, value), choice(keep, value)));
    versions.replaceChildren(element("p", {}, wrote), ...choices, choice(both, values.join("\n")));
    this.unsent(".notes h3", note?.pending);
    this.drawSave();
  }

  drawSave() {
    this.find(".save").disabled = this.find(".text").value === this.noted;
  }

  drawInbox() {
    const conflicts = this.roost.conflicts();
    this.find(".nothing").hidden = conflicts.length > 0;
    this.find(".conflicts").replaceChildren(...conflicts.map((conflict) => this.conflict(conflict)));
  }

  conflict(conflict) {
    const { id, collection, key, device, kept, lost, detail } = conflict;
    const words = this.words;
    const about = collection === "wishes" ? (this.names.get(key) ?? key) : (words[collection] ?? collection);
    const parts = lost.edits?.map((edit) => part(edit, words)) ?? [said(lost.value, words)];
    const places = kept.value === null ? undefined : lost.edits?.map(({ path }) => path);
    const stand = places?.map((path) => part({ path, value: at(kept.value, path) }, words)) ?? [said(kept.value, words)];
    // What was in the log already came from somebody else than the device whose mutation met it.
    const from = lost.version === undefined && device ? ` (${device})` : "";
    const line = (name, text) => [element("dt", {}, words[name]), element("dd", { className: name }, text)];
    const list = element("dl", {}, ...line("kept", stand.join(", ")), ...line("lost", parts.join(", ") + from));
    const buttons = [element("button", { className: "dismiss", onclick: () => this.roost.dismiss(id) }, words.dismiss)];
    if (reversible(kept.value, lost)) {
      buttons.unshift(element("button", { className: "reverse", onclick: () => this.reverse(conflict) }, words.instead));
    }
    return element("li", { title: detail ?? "" }, about, list, ...buttons);
  }

  unsent(selector, pending) {
    this.find(selector).classList.toggle("unsent", pending === true);
  }
}

/** An edit in words: `theme dark`, `tea +2`. */
function part({ op, path, value }, words) {
  const name = path.slice(1);
  return `${words[name] ?? name} ${op === "inc" ? "+" : ""}${said(value, words)}`.trim();
}

/** Whether a person can have what lost by one edit. */
function reversible(kept, lost) {
  return lost.edits ? kept !== null && lost.edits.every(({ op }) => op === "set") : true;
}

function at(value, path) {
  return path.split("/").slice(1).reduce((inner, name) => inner?.[name], value);
}

/** A value as a person would say it. */
export function said(value, words = WORDS.en) {
  if (value === null || value === undefined) return words.removed;
  if (typeof value === "boolean") return value ? "✓" : "–";
  if (typeof value === "object") return String(value.name ?? JSON.stringify(value));
  return String(THEMES.includes(value) ? words[value] : value);
}
