// Marked passages of the two answers: chosen in a dialog (native selection, so keys, mouse and touch all work),
// listed below the grades, shown in the answers. Positions are code points of the text as it was written.

const $ = (id) => document.getElementById(id);
const texts = JSON.parse($("page-texts").textContent);
const labels = Object.fromEntries(
  [...document.querySelectorAll("input[name=mark-tag]")].map((box) => [box.value, box.parentElement.textContent.trim()]),
);

let raw = { a: "", b: "" };
let kept = [];
let selected = null; // what was last selected in an answer itself: {side, quote}

const side = () => document.querySelector("input[name=mark-side]:checked").value;

export const marked = () => kept.map(({ side, start, end, tag }) => ({ side, start, end, tag }));

export function clear() {
  kept = [];
  selected = null;
  raw = { a: "", b: "" };
  draw();
}

export function offer(answers) {
  raw = answers;
}

export function restore(marks) {
  kept = marks.map((mark) => ({ ...mark }));
  draw();
}

// A text area turns \r\n and \r into \n: walks the written text along with what it shows.
function codePoints(text, shown) {
  let points = 0;
  let at = 0;
  for (let seen = 0; seen < shown && at < text.length; points += 1) {
    const character = String.fromCodePoint(text.codePointAt(at));
    const isPair = character === "\r" && text[at + 1] === "\n";
    at += character.length + (isPair ? 1 : 0);
    points += isPair ? 1 : 0;
    seen += character.length;
  }
  return points;
}

function showText() {
  $("mark-text").value = raw[side()];
  $("marker-problem").hidden = true;
}

function open() {
  const wanted = selected;
  if (wanted) document.querySelector(`input[name=mark-side][value=${wanted.side}]`).checked = true;
  showText();
  $("marker").showModal();
  $("mark-text").focus();
  const at = wanted ? $("mark-text").value.indexOf(wanted.quote) : -1;
  $("mark-text").setSelectionRange(Math.max(at, 0), at < 0 ? 0 : at + wanted.quote.length);
}

function add() {
  const { selectionStart, selectionEnd } = $("mark-text");
  $("marker-problem").hidden = selectionStart < selectionEnd;
  if (selectionStart >= selectionEnd) return;
  const text = raw[side()];
  const [start, end] = [codePoints(text, selectionStart), codePoints(text, selectionEnd)];
  const tag = document.querySelector("input[name=mark-tag]:checked").value;
  kept.push({ side: side(), start, end, tag, quote: Array.from(text).slice(start, end).join("") });
  selected = null;
  $("marker").close();
  draw();
  $("status").textContent = texts.marked;
}

function draw() {
  $("marks").replaceChildren(
    ...kept.map((mark, index) => {
      const item = document.createElement("li");
      const where = document.createElement("strong");
      where.textContent = `${mark.side.toUpperCase()} · ${labels[mark.tag] ?? mark.tag}`;
      const quote = document.createElement("q");
      quote.dir = "auto";
      quote.textContent = mark.quote.length > 80 ? `${mark.quote.slice(0, 80)}…` : mark.quote;
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "quiet";
      remove.textContent = texts.remove;
      remove.setAttribute("aria-label", `${texts.remove}: ${mark.quote.slice(0, 40)}`);
      remove.addEventListener("click", () => {
        kept.splice(index, 1);
        draw();
        $("open-marker").focus();
      });
      item.append(where, " ", quote, " ", remove);
      return item;
    }),
  );
  if (globalThis.Highlight && CSS.highlights) {
    CSS.highlights.set("fault", new Highlight(...kept.map(range).filter(Boolean)));
  }
}

// Where a marked passage stands in the rendered answer; null where Markdown made something else of it.
function range({ side, quote }) {
  const nodes = [];
  const walker = document.createTreeWalker($(`answer-${side}`), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) nodes.push(walker.currentNode);
  const start = nodes.map((node) => node.data).join("").indexOf(quote);
  if (start < 0) return null;
  const found = document.createRange();
  let before = 0;
  for (const node of nodes) {
    const after = before + node.length;
    if (start >= before && start < after) found.setStart(node, start - before);
    if (start + quote.length > before && start + quote.length <= after) {
      found.setEnd(node, start + quote.length - before);
      return found;
    }
    before = after;
  }
  return null;
}

document.addEventListener("selectionchange", () => {
  const selection = document.getSelection();
  const quote = selection.toString();
  if (!quote.trim()) return;
  for (const name of ["a", "b"]) if ($(`answer-${name}`).contains(selection.anchorNode)) selected = { side: name, quote };
});
$("open-marker").addEventListener("click", open);
$("close-marker").addEventListener("click", () => $("marker").close());
for (const box of document.querySelectorAll("input[name=mark-side]")) box.addEventListener("change", showText);
$("marker-form").addEventListener("submit", (event) => {
  event.preventDefault();
  add();
});
