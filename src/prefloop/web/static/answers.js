// The pair on the page: both answers as they stream, the grade and what is said beside it. Knows nothing of what
// comes before or after a pair.

import { coversIn, cover, isCovered, uncoverAll } from "./care.js";
import { stored } from "./keys.js";
import * as marks from "./marks.js";
import { TurnReader } from "./stream.js";

const $ = (id) => document.getElementById(id);
const texts = JSON.parse($("page-texts").textContent);
const SIDES = ["a", "b"];

let reader = null; // the stream that is being read
let revising = null; // the judgment that is being changed
let shownAt = null; // when the first text of the pair was seen
let device = "pointer"; // how the grade was chosen
let isReady = false; // both answers are complete

export const inputDevice = () => device;

export function close() {
  reader?.close();
  revising = null;
}

// Shows a comparison of a phase ("answers", "review", "practice"); `judged` is what it said, where it is being changed.
// `on` is told of `ready`, `voided` (with a message) and `connection` (whether it is good).
export function show(comparison, { phase, canSkip = true, judged = null }, on) {
  reader?.close();
  $("judgment").hidden = false;
  const whenComplete = $("when-complete").checked;
  const pending = { a: "", b: "" };
  const html = {};
  const raw = { a: "", b: "" };
  shownAt = null;
  isReady = false;
  $("judgment").reset();
  marks.clear();
  showSource();
  if ($("go-on")) {
    $("go-on").hidden = phase !== "answers" && !comparison.revises;
    $("go-on").dataset.touched = "";
  }
  $("grades").disabled = true;
  $("submit-judgment").disabled = true;
  $("grade-choice").textContent = texts.wait;
  $("skip").hidden = Boolean(comparison.revises) || !canSkip;
  $("skip").textContent = phase === "practice" ? texts.skip_practice : texts.skip_pair;
  $("reasons").hidden = phase === "practice";
  for (const side of SIDES) {
    if (coversIn(phase)) cover($(`answer-${side}`), texts, allowJudgment);
    else uncoverAll($(`pane-${side}`));
    $(`answer-${side}`).textContent = "";
    $(`answer-${side}`).classList.add("raw");
    $(`pane-${side}`).setAttribute("aria-busy", "true");
    $(`pane-${side}`).classList.remove("chosen");
    paneState(side, texts.waiting, true);
  }

  const finish = (side) => {
    $(`answer-${side}`).classList.remove("raw");
    $(`answer-${side}`).innerHTML = html[side]; // rendered and cleaned by the server
    $(`pane-${side}`).setAttribute("aria-busy", "false");
    paneState(side, texts.complete, false);
  };

  reader = new TurnReader(comparison.stream_url, {
    delta(side, text) {
      shownAt ??= new Date();
      raw[side] += text;
      if (whenComplete) return;
      pending[side] += text;
      requestAnimationFrame(() => {
        if (!pending[side] || html[side]) return;
        $(`answer-${side}`).append(pending[side]);
        pending[side] = "";
      });
      paneState(side, texts.writing, true);
    },
    done(side, rendered) {
      html[side] = rendered;
      if (!whenComplete) finish(side);
    },
    ready() {
      shownAt ??= new Date();
      SIDES.forEach(finish);
      isReady = true;
      allowJudgment();
      marks.offer(raw);
      revising = comparison.revises ?? null;
      if (revising) restore(judged);
      on.ready();
    },
    voided: on.voided,
    connection: on.connection,
  });
}

// Grades are open once both answers are complete and both were asked for.
function allowJudgment() {
  if (!isReady) return;
  const isOpen = !isCovered();
  $("grades").disabled = !isOpen;
  $("grade-choice").textContent = isOpen ? "\u00a0" : texts.show_first;
}

function paneState(side, text, isMoving) {
  const label = $(`pane-state-${side}`);
  if (label.dataset.text === text) return;
  label.dataset.text = text;
  label.replaceChildren(text);
  if (isMoving) {
    const pulse = document.createElement("span");
    pulse.className = "pulse";
    pulse.setAttribute("aria-hidden", "true");
    label.prepend(pulse);
  }
}

export function choose(grade, how, focus = true) {
  const radio = document.querySelector(`input[name=grade][value="${grade}"]`);
  if (!radio || $("grades").disabled || $("answers").hidden) return false;
  radio.checked = true;
  if (focus) radio.focus();
  chosen(radio, how);
  return true;
}

// A judgment that is being changed shows what it said.
function restore(judged) {
  choose(judged.grade, device, false);
  for (const box of document.querySelectorAll("input[name=reason]")) box.checked = judged.reason_tags.includes(box.value);
  marks.restore(judged.marks);
  $("is-checked").checked = judged.is_checked;
  $("source").value = judged.checked_source;
  showSource();
  if (judged.go_on_with) goOnWith(judged.go_on_with, true);
}

function showSource() {
  $("source-field").hidden = !$("is-checked").checked;
}

function goOnWith(side, isWish) {
  if (!$("go-on")) return;
  if (isWish) $("go-on").dataset.touched = "yes";
  else if ($("go-on").dataset.touched) return;
  document.querySelector(`input[name=go-on][value=${side}]`).checked = true;
}

function chosen(radio, how) {
  device = how;
  const clicked = Number(radio.value) <= 4 ? "a" : "b";
  $("grade-choice").textContent = radio.getAttribute("aria-label");
  $("submit-judgment").disabled = false;
  goOnWith(clicked, false);
  for (const side of SIDES) $(`pane-${side}`).classList.toggle("chosen", side === clicked);
}

// The judgment as the server takes it, or null before a grade is chosen.
export function judgment() {
  const radio = document.querySelector("input[name=grade]:checked");
  if (!radio) return null;
  return {
    grade: Number(radio.value),
    reason_tags: [...document.querySelectorAll("input[name=reason]:checked")].map((box) => box.value),
    marks: marks.marked(),
    is_checked: $("is-checked").checked,
    checked_source: $("is-checked").checked ? $("source").value : "",
    go_on_with: document.querySelector("input[name=go-on]:checked")?.value ?? null,
    input_device: device,
    shown_at: shownAt?.toISOString() ?? null,
    revises: revising,
  };
}

$("judgment").addEventListener("change", (event) => {
  if (event.target.name === "grade") chosen(event.target, device);
  if (event.target.name === "go-on") goOnWith(event.target.value, true);
  if (event.target.id === "is-checked") showSource();
});
document.addEventListener("keydown", () => (device = "keyboard"), true);
document.addEventListener("pointerdown", () => (device = "pointer"), true);
