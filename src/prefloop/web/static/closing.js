// The questions at the end of a conversation: reads and fills the form that the server drew.

const form = document.getElementById("closing");
const fields = () => [...(form?.querySelectorAll("[data-question]") ?? [])];

export const isAsked = () => form !== null;

// Answers by the question's id; open ones are left out.
export function answers() {
  const given = {};
  for (const field of fields()) {
    const point = field.querySelector("input:checked");
    const words = field.querySelector("textarea")?.value.trim();
    if (point) given[field.dataset.question] = Number(point.value);
    else if (words) given[field.dataset.question] = words;
  }
  return given;
}

export function fill(known) {
  form?.reset();
  for (const field of fields()) {
    const answer = known?.[field.dataset.question];
    if (answer === undefined) continue;
    const point = field.querySelector(`input[value="${answer}"]`);
    if (point) point.checked = true;
    else if (field.querySelector("textarea")) field.querySelector("textarea").value = answer;
  }
}
