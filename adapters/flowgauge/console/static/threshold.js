"use strict";
// The price of a threshold, as its value is typed.

const PAUSE = 150; // milliseconds after the last key: less asks for every digit, more is felt

for (const form of document.querySelectorAll("[data-price]")) {
  const told = form.querySelector("[data-told]"), shown = document.getElementById("price");
  let waiting = 0, latest = 0;
  const ask = async () => {
    const mine = ++latest;
    const value = form.elements.value.value.trim();
    if (value === "") return;
    try {
      const answer = await fetch(`${form.dataset.price}?value=${encodeURIComponent(value)}`, { headers: { accept: "text/html" } });
      if (mine !== latest) return; // a later value was typed meanwhile
      if (answer.redirected || answer.status === 401) { location.reload(); return; } // the session is over
      if (answer.ok) shown.innerHTML = await answer.text();
      told.textContent = answer.ok ? "" : "no number";
    } catch {
      told.textContent = "the console does not answer";
    }
  };
  form.elements.value.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(ask, PAUSE); });
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
}
