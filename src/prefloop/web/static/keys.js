// Single-key shortcuts: only outside of text fields, and only while the person has them switched on (WCAG 2.1.4).

const STORAGE = "prefloop.single-keys";

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

export function singleKeys(toggle, handlers) {
  toggle.checked = stored(STORAGE, "on") === "on";
  toggle.addEventListener("change", () => store(STORAGE, toggle.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (!toggle.checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox]), [contenteditable]")) return;
    if (document.querySelector("dialog[open]")) return;
    const handle = handlers[event.key];
    if (handle && handle(event.key) !== false) event.preventDefault();
  });
}
