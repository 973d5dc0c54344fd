"use strict";
// Parts of a page that change: each `data-live` names where its HTML comes from.

const EVERY = 800; // milliseconds; more, and a verdict shows later than two seconds after it was scored

async function renew(part) {
  const answer = await fetch(part.dataset.live, { headers: { accept: "text/html" } });
  if (answer.redirected || answer.status === 401) { location.reload(); return; } // the session is over
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const text = await answer.text();
  if (text === part.dataset.text) return;
  // who has put the focus on something that comes again keeps it, and a slider keeps its value
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  if (focused === "" && part.contains(document.activeElement)) return;
  part.dataset.text = text;
  const opacity = part.querySelector("[data-opacity]")?.value;
  const scrolled = [...part.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  part.innerHTML = text;
  part.querySelectorAll(".scroll").forEach((each, n) => { each.scrollLeft = scrolled[n] ?? 0; });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  const slider = part.querySelector("[data-opacity]");
  if (slider && opacity !== undefined) slider.value = opacity;
  blend();
}

function blend() {
  for (const slider of document.querySelectorAll("[data-opacity]")) {
    const around = slider.closest("section, .review, [data-live]") ?? document.body;
    around.style.setProperty("--heat", slider.value / 100);
  }
}

async function follow(part) {
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY));
    if (document.hidden) continue;
    try {
      await renew(part);
      part.classList.remove("stale");
    } catch {
      part.classList.add("stale"); // the console is away: what is shown is the last that was known
    }
  }
}

document.addEventListener("input", (event) => { if (event.target.matches("[data-opacity]")) blend(); });
blend();
document.querySelectorAll("[data-live]").forEach(follow);
