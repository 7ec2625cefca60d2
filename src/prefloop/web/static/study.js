// The worker's page. The server owns the facts: after every action the page asks for the state and shows it.

import * as answers from "./answers.js";
import { get, post } from "./api.js";
import * as beside from "./beside.js";
import * as care from "./care.js";
import * as closing from "./closing.js";
import { singleKeys, store, stored } from "./keys.js";

const $ = (id) => document.getElementById(id);
const texts = JSON.parse($("page-texts").textContent);
const studyId = $("study").dataset.study;
const PHASES = ["loading", "answers", "void", "goal", "composer", "complete", "closed", "feedback", "break"];

let state = null; // what the server said last
let isBusy = false;
let undoTimer = null;
let goalSkippedIn = null; // the conversation whose goal was left open

const say = (text) => {
  $("status").textContent = text;
};

const complain = (text) => {
  $("problem").textContent = text;
  $("problem").hidden = !text;
};

// ---- showing the state ----

function showOnly(...visible) {
  for (const id of PHASES) if ($(id)) $(id).hidden = !visible.includes(id);
}

function show(next, { focus = true } = {}) {
  state = next;
  answers.close();
  complain("");
  $("progress").textContent = next.progress ?? "";
  if (next.announcement !== undefined) {
    $("announcement").hidden = !next.announcement;
    $("announcement-text").textContent = next.announcement ?? "";
  }
  $("review-note").hidden = next.phase !== "review";
  $("practice-note").hidden = next.phase !== "practice";
  showTranscript(next.messages ?? []);
  offerUndo();
  $("goal-note").hidden = !next.goal;
  $("goal-text").textContent = next.goal ?? "";
  if (next.phase === "write" && next.asks_goal && goalSkippedIn !== next.conversation_id) {
    showOnly("goal");
    if (focus) $("goal-input").focus();
  } else if (next.phase === "write" && next.break) {
    showOnly("break");
    $("break-text").textContent = texts.break_text.replace("{minutes}", next.break);
    if (focus) $("break-title").focus();
  } else if (next.phase === "write") {
    showOnly("composer");
    $("message-label").textContent = next.messages.length ? texts.reply : texts.first_message;
    $("message").placeholder = next.messages.length ? "" : $("message").dataset.placeholder;
    $("end-early").hidden = next.messages.length === 0;
    if (focus) $("message").focus();
  } else if (["answers", "review", "practice"].includes(next.phase)) {
    showAnswers(next.comparison, focus);
  } else if (next.phase === "void") {
    showVoid(next.message, focus);
  } else if (next.phase === "complete") {
    showOnly("complete");
    $("complete-message").textContent = next.closed ?? texts.thanks;
    $("next").textContent = next.is_last ? texts.finish : texts.next;
    closing.fill(next.answers);
    care.offerFeelings(next.feelings);
    if (focus) $("complete-title").focus();
  } else {
    showEnd(next, focus);
  }
}

function showEnd({ phase, message, completion }, focus) {
  showOnly("closed");
  $("closed-title").textContent = phase === "end" || completion ? texts.end : texts.nothing_to_do;
  $("closed-message").textContent = message;
  $("completion").hidden = !completion;
  $("completion-code").textContent = completion?.code ?? "";
  $("completion-link").hidden = !completion?.url;
  if (completion?.url) $("completion-link").href = completion.url;
  if (focus) $("closed-title").focus();
}

function showTranscript(messages) {
  $("transcript").replaceChildren(
    ...messages.map(({ role, text, html, is_edited }) => {
      const item = document.createElement("li");
      item.className = `turn ${role}`;
      const from = document.createElement("span");
      from.className = "from";
      from.textContent = is_edited ? `${texts.roles[role]} · ${texts.edited_by_you}` : texts.roles[role];
      const body = document.createElement("div");
      body.dir = "auto";
      if (role === "assistant") {
        body.className = "prose";
        body.innerHTML = html; // rendered and cleaned by the server
      } else {
        body.textContent = text;
      }
      item.append(from, body);
      if (state.phase === "review" && care.coversIn("review")) care.cover(body, texts);
      return item;
    }),
  );
}

function offerUndo() {
  clearTimeout(undoTimer);
  beside.offerEdit(state);
  const seconds = state.judged?.undo_seconds ?? 0;
  const isOffered = seconds > 0;
  $("undo").hidden = !isOffered;
  $("undo-last").hidden = !isOffered;
  if (isOffered) {
    undoTimer = setTimeout(() => {
      $("undo").hidden = $("undo-last").hidden = true;
    }, seconds * 1000);
  }
}

function showVoid(message, focus = true) {
  showOnly("void");
  $("void-message").textContent = message;
  say(message);
  if (focus) $("void-title").focus();
}

function showAnswers(comparison, focus = true, judged = null) {
  showOnly("answers");
  const { phase, can_skip } = state;
  answers.show(comparison, { phase, canSkip: can_skip !== false, judged }, {
    ready: () => say(texts.ready),
    voided(message) {
      state = { ...state, phase: "void" };
      showVoid(message);
    },
    connection: (isGood) => complain(isGood ? "" : texts.reconnecting),
  });
  if (focus) $("answers-title").focus({ preventScroll: true });
}

// ---- actions ----

async function act(action) {
  if (isBusy) return;
  isBusy = true;
  complain("");
  try {
    await action();
  } catch (error) {
    if (error.status === 401) location.reload();
    if (error.status === 409) await refresh().catch(() => {});
    complain(error.message);
    say(error.message);
  } finally {
    isBusy = false;
  }
}

async function refresh(options) {
  const next = await get(`/api/studies/${studyId}/state`);
  if (next.phase === "start") await goOn();
  else show(next, options);
}

async function goOn() {
  // Second opinions come between conversations.
  const next = await get(`/api/next?study_id=${studyId}`);
  if (next.kind === "end") {
    show(await post(`/api/studies/${studyId}/finish`));
    return;
  }
  if (next.kind === "conversation") await post("/api/conversations", { study_id: studyId });
  if (next.kind === "review") show(next.state);
  else await refresh();
}

const save = (text) =>
  act(async () => {
    const { comparison_id, editable } = state.judged;
    await post(`/api/comparisons/${comparison_id}/edit`, { side: editable, text, input_device: answers.inputDevice() });
    say(texts.edited);
    await refresh();
  });

const report = (kind, text) =>
  act(async () => {
    const comparison_id = state?.comparison?.id ?? state?.judged?.comparison_id ?? null;
    await post(`/api/studies/${studyId}/reports`, { kind, text, comparison_id });
    say(texts.reported);
  });

const send = () =>
  act(async () => {
    const text = $("message").value;
    if (!text.trim()) {
      $("message").focus();
      return;
    }
    $("send").disabled = true;
    try {
      await post(`/api/conversations/${state.conversation_id}/messages`, { text });
      $("message").value = "";
      say(texts.sent);
    } finally {
      $("send").disabled = false;
    }
    await refresh();
  });

async function practise(grade) {
  const { is_right, feedback } = await post(`/api/studies/${studyId}/practice`, { item: state.comparison.id, grade });
  $("feedback").hidden = false; // below the answers, which stay for comparing
  $("judgment").hidden = true;
  $("feedback-title").textContent = is_right ? texts.practice_right : texts.practice_wrong;
  $("feedback-text").innerHTML = feedback; // rendered and cleaned by the server
  $("feedback-title").focus();
}

const judge = () =>
  act(async () => {
    const judgment = answers.judgment();
    if (!judgment) return;
    if (state.phase === "practice") {
      await practise(judgment.grade);
      return;
    }
    const isReview = state.phase === "review";
    if (isReview) judgment.go_on_with = null;
    $("submit-judgment").disabled = true;
    try {
      await post(`/api/comparisons/${judgment.revises ? state.judged.comparison_id : state.comparison.id}/judgment`, judgment);
    } finally {
      $("submit-judgment").disabled = false;
    }
    say(texts.saved);
    if (isReview) await goOn();
    else await refresh();
  });

const next = () =>
  act(async () => {
    const said = closing.answers();
    if (closing.isAsked() && (Object.keys(said).length || state.answers)) {
      await post(`/api/conversations/${state.conversation_id}/answers`, { answers: said });
    }
    if (state.feelings) {
      await post(`/api/studies/${studyId}/feelings`, { answers: care.said() });
      state.feelings = null; // asked once, also where the next step fails
    }
    await goOn();
  });

const keepGoal = () =>
  act(async () => {
    const text = $("goal-input").value;
    if (!text.trim()) {
      $("goal-input").focus();
      return;
    }
    const topic = $("goal-topic")?.value || null;
    await post(`/api/conversations/${state.conversation_id}/goal`, { text, topic });
    $("goal-input").value = "";
    await refresh();
  });

function skipGoal() {
  goalSkippedIn = state.conversation_id;
  show(state);
}

function reconsider() {
  const { comparison_id, stream_url, judgment_id } = state.judged;
  showTranscript(state.messages.filter((message) => !message.provisional));
  $("undo").hidden = $("undo-last").hidden = true;
  showAnswers({ id: comparison_id, stream_url, revises: judgment_id }, true, state.judged);
}

const skip = () =>
  act(async () => {
    if (state.phase === "practice") {
      await post(`/api/studies/${studyId}/practice`);
      await refresh();
      return;
    }
    await post(`/api/comparisons/${state.comparison.id}/skip`);
    if (state.phase === "review") await goOn();
    else await refresh();
  });

const takeBreak = (kind) =>
  act(async () => {
    await post(`/api/studies/${studyId}/breaks`, { kind });
    await refresh();
  });

const retry = () =>
  act(async () => {
    await post(`/api/conversations/${state.conversation_id}/retry`);
    await refresh();
  });

const end = () =>
  act(async () => {
    await post(`/api/conversations/${state.conversation_id}/end`);
    await refresh();
  });

// ---- wiring ----

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("judgment").addEventListener("submit", (event) => {
  event.preventDefault();
  judge();
});
$("skip").addEventListener("click", skip);
$("retry").addEventListener("click", retry);
$("next").addEventListener("click", next);
$("closing")?.addEventListener("submit", (event) => {
  event.preventDefault();
  next();
});
$("goal")?.addEventListener("submit", (event) => {
  event.preventDefault();
  keepGoal();
});
$("skip-goal")?.addEventListener("click", skipGoal);
$("undo").addEventListener("click", reconsider);
$("undo-last").addEventListener("click", reconsider);
for (const button of document.querySelectorAll("[data-action=end]")) button.addEventListener("click", end);
$("show-instructions").addEventListener("click", () => $("instructions").showModal());
$("show-keys").addEventListener("click", () => $("keys").showModal());
$("when-complete").checked = stored("prefloop.when-complete", "off") === "on";
$("when-complete").addEventListener("change", (event) => store("prefloop.when-complete", event.target.checked ? "on" : "off"));
$("after-practice").addEventListener("click", () => act(refresh));
beside.wire({ save, report });
care.wire(studyId, texts, { say, take: takeBreak });
const canSkip = () => !$("answers").hidden && !$("skip").hidden;
singleKeys(
  $("keys-on"),
  {
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8].map((grade) => [`grade-${grade}`, () => answers.choose(grade, "keyboard")])),
    help: () => $("keys").showModal(),
    instructions: () => $("instructions").showModal(),
    skip: () => (canSkip() ? skip() : false),
  },
  texts,
);

act(() => refresh({ focus: false }));
