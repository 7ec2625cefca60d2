// Care for people who read harmful texts: covers over texts, topics to opt out of, breaks, how one feels.

import { post } from "./api.js";
import { store, stored } from "./keys.js";

const $ = (id) => document.getElementById(id);
const COVERS = "prefloop.cover-all";
const feelings = () => [...document.querySelectorAll("[data-feeling]")];

// Whether texts are covered in this phase: the worker's own choice goes before the study's.
export function coversIn(phase) {
  const box = $("cover-all");
  if (!box || phase === "practice") return false;
  const isUsual = box.dataset.default === "all" || (box.dataset.default === "reviews" && phase === "review");
  const own = stored(COVERS, "");
  return own ? own === "on" || (phase === "review" && isUsual) : isUsual;
}

// Hides a text behind a button until it is asked for; `shown` is called then.
export function cover(text, { covered, uncover }, shown = () => {}) {
  uncoverAll(text.parentElement);
  const box = document.createElement("p");
  box.className = "cover";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = uncover;
  button.addEventListener("click", () => {
    box.remove();
    text.hidden = false;
    text.tabIndex = -1;
    text.focus({ preventScroll: true });
    shown();
  });
  box.append(covered, " ", button);
  text.hidden = true;
  text.before(box);
}

export function uncoverAll(place) {
  for (const box of place.querySelectorAll(":scope > .cover")) {
    box.nextElementSibling.hidden = false;
    box.remove();
  }
}

export const isCovered = () => document.querySelector(".pane > .cover") !== null;

export function offerFeelings(asked) {
  if (!$("feelings")) return;
  $("feelings").hidden = !asked;
  for (const field of feelings()) field.querySelector("input[value='0']").checked = true;
}

// Answers by the question's id; "rather not say" is left out.
export function said() {
  const answers = {};
  for (const field of feelings()) {
    const point = Number(field.querySelector("input:checked").value);
    if (point) answers[field.dataset.feeling] = point;
  }
  return answers;
}

// say(text) announces; take(kind) keeps what became of a break
export function wire(studyId, texts, { say, take }) {
  if (!$("care")) return;
  const box = $("cover-all");
  box.checked = (stored(COVERS, "") || (box.dataset.default === "all" ? "on" : "off")) === "on";
  box.addEventListener("change", () => store(COVERS, box.checked ? "on" : "off"));
  $("show-care").addEventListener("click", () => $("care").showModal());
  $("care").addEventListener("change", async (event) => {
    if (event.target.name !== "opt-out") return;
    const topics = [...document.querySelectorAll("input[name=opt-out]:checked")].map((topic) => topic.value);
    await post(`/api/studies/${studyId}/opt-outs`, { topics });
    say(texts.saved_care);
  });
  for (const button of document.querySelectorAll("[data-break]")) {
    button.addEventListener("click", () => take(button.dataset.break));
  }
}
