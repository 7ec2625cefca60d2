// What stands beside the turn: the dialogs for bettering an answer and for telling the researchers.

const $ = (id) => document.getElementById(id);
const buttons = () => document.querySelectorAll("[data-action=edit]");

let original = "";

// The answer that the conversation goes on with may be bettered once, while it may still change.
export function offerEdit({ judged, messages }) {
  const isOffered = Boolean(judged?.editable && $("editor"));
  for (const button of buttons()) button.hidden = !isOffered;
  original = isOffered ? messages.at(-1).text : "";
}

function openEditor() {
  $("editor-text").value = original;
  $("editor-problem").hidden = true;
  $("editor").showModal();
  $("editor-text").focus();
  $("editor-text").setSelectionRange(0, 0);
}

// save(text) and report(kind, text) do the work.
export function wire({ save, report }) {
  for (const button of buttons()) button.addEventListener("click", openEditor);
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => $(button.dataset.close).close());
  }
  $("editor-form")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("editor-text").value;
    const isChanged = text.trim() && text.trim() !== original.trim();
    $("editor-problem").hidden = isChanged;
    if (!isChanged) return;
    $("editor").close();
    save(text);
  });
  $("show-report").addEventListener("click", () => $("report").showModal());
  $("report-form").addEventListener("submit", (event) => {
    event.preventDefault();
    $("report").close();
    report(document.querySelector("input[name=report-kind]:checked").value, $("report-text").value);
    $("report-text").value = "";
  });
}
