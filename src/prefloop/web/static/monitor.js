// Keeps the researcher's numbers fresh. Reads the same panel again; stops while the page is hidden or switched off.

const PAUSE_MILLISECONDS = 5000;
const panel = document.getElementById("panel");
const toggle = document.getElementById("refresh");
let isOn = true;

async function refresh() {
  if (!isOn || document.hidden || panel.contains(document.activeElement)) return;
  try {
    const response = await fetch(panel.dataset.source);
    if (response.status === 401) location.reload();
    if (response.ok) panel.innerHTML = await response.text(); // escaped by the server's templates
  } catch {
    // the server is away for a moment; the next round tries again
  }
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  isOn = !isOn;
  toggle.setAttribute("aria-pressed", String(isOn));
  toggle.textContent = `Auto refresh: ${isOn ? "on" : "off"}`;
  refresh();
});
setInterval(refresh, PAUSE_MILLISECONDS);
