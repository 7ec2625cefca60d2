// Single-key shortcuts: only outside of text fields, only while the person has them switched on, and on keys that the
// person may choose (WCAG 2.1.4). The list in the dialog is drawn by the server; its buttons name the actions.

const STORAGE = "prefloop.single-keys";
const CHOSEN = "prefloop.keys";

export const stored = (name, fallback) => {
  try {
    return localStorage.getItem(name) ?? fallback;
  } catch {
    return fallback; // storage is blocked: the choice lasts for this page
  }
};

export const store = (name, value) => {
  try {
    localStorage.setItem(name, value);
  } catch {
    // the same
  }
};

function own() {
  try {
    return JSON.parse(stored(CHOSEN, "{}"));
  } catch {
    return {}; // somebody else's text: the usual keys
  }
}

const buttons = [...document.querySelectorAll("[data-key]")];
const usual = Object.fromEntries(buttons.map((button) => [button.dataset.key, button.textContent]));
let chosen = { ...usual, ...own() };
let waiting = null; // the button whose new key is awaited

const fill = (text, facts) => text.replace(/\{(\w+)\}/g, (_, name) => facts[name]);

function draw() {
  for (const button of buttons) {
    const { key, label } = button.dataset;
    button.textContent = chosen[key];
    button.setAttribute("aria-label", `${label}: ${chosen[key]}`);
    button.setAttribute("aria-pressed", String(button === waiting));
  }
}

function choose(event, texts, note) {
  event.preventDefault();
  event.stopPropagation();
  const { key, label } = waiting.dataset;
  const name = event.key.toLowerCase();
  if (event.key.length !== 1 || event.key === " ") {
    if (event.key === "Escape") {
      waiting = null;
      note("");
      draw();
    }
    return; // modifiers and named keys stay what they are
  }
  const taken = buttons.find((other) => other !== waiting && chosen[other.dataset.key] === name);
  if (taken) {
    note(fill(texts.key_taken, { label: taken.dataset.label }));
    return;
  }
  chosen = { ...chosen, [key]: name };
  store(CHOSEN, JSON.stringify(chosen));
  waiting = null;
  note(fill(texts.key_set, { label, key: name }));
  draw();
}

// handlers by the name of the action; one that gives false leaves the key to the browser
export function singleKeys(toggle, handlers, texts) {
  const note = (text) => (document.getElementById("keys-note").textContent = text);
  toggle.checked = stored(STORAGE, "on") === "on";
  toggle.addEventListener("change", () => store(STORAGE, toggle.checked ? "on" : "off"));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      waiting = button;
      note(fill(texts.press_key, { label: button.dataset.label }));
      draw();
    });
    button.addEventListener("blur", () => {
      if (waiting === button) waiting = null;
      draw();
    });
    button.addEventListener("keydown", (event) => waiting === button && event.key !== "Tab" && choose(event, texts, note));
  }
  document.getElementById("reset-keys").addEventListener("click", () => {
    chosen = { ...usual };
    store(CHOSEN, "{}");
    note("");
    draw();
  });
  document.addEventListener("keydown", (event) => {
    if (!toggle.checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox]), [contenteditable]")) return;
    if (document.querySelector("dialog[open]")) return;
    const action = Object.keys(chosen).find((name) => chosen[name] === event.key.toLowerCase());
    if (action && handlers[action]() !== false) event.preventDefault();
  });
  draw();
}
