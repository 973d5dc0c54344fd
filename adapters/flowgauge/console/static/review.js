"use strict";
// The review queue: one image at a time, by keyboard first. A label is sent at once, and the next image is there
// before the answer comes; what could not be stored is said, and the queue goes back to it.

const { items, kinds, may_label: mayLabel } = JSON.parse(document.getElementById("queue")?.textContent ?? '{"items":[],"kinds":[]}');
const csrf = document.querySelector('meta[name="csrf"]').content;
const of = (id) => document.getElementById(id);
const done = []; // what was labelled here, for undo: [number, label and class before]
let current = Math.max(0, items.findIndex((each) => !each.label));

const picture = (item, what) => `/verdicts/${item.id}/${what}?day=${item.at.slice(0, 10)}`;

function show() {
  const item = items[current];
  of("picture").src = picture(item, "image");
  of("heat").hidden = !item.heatmap;
  if (item.heatmap) of("heat").src = picture(item, "heatmap");
  of("number").textContent = `${current + 1} of ${items.length}`;
  of("progress").value = items.filter((each) => each.label).length;
  of("facts").textContent = `${item.image}: ${item.decision}. ${item.reasons.join("; ")}`;
  of("labelled").textContent = item.label ? `Labelled ${item.label}${item.kind ? ` (${item.kind})` : ""}.` : "Not labelled yet.";
  for (const cell of document.querySelectorAll("[data-of]")) {
    const [decision, label] = cell.dataset.of.split(" ");
    cell.textContent = items.filter((each) => each.decision === decision && each.label === label).length;
  }
  for (const ahead of items.slice(current + 1, current + 4)) {
    new Image().src = picture(ahead, "image"); // so that the next ones are there at once
    if (ahead.heatmap) new Image().src = picture(ahead, "heatmap");
  }
}

function tell(words) {
  of("told").textContent = words;
}

let sending = Promise.resolve(); // one after the other: an undo must not overtake the label that it takes back

function send(number, label, kind) {
  const item = items[number];
  const before = { label: item.label, kind: item.kind };
  [item.label, item.kind] = [label || null, label === "defect" ? kind : ""];
  sending = sending.then(() => store(number, label, kind, before));
}

async function store(number, label, kind, before) {
  const item = items[number];
  const body = new URLSearchParams({ csrf, label, kind });
  try {
    const answer = await fetch(`/verdicts/${item.id}/label`, { method: "POST", body, headers: { accept: "application/json" } });
    if (!answer.ok) {
      throw new Error((await answer.json()).message);
    }
  } catch (error) {
    Object.assign(item, before);
    current = number;
    tell(`${item.image} was not labelled. ${error.message}`);
    show();
    return;
  }
  tell(label ? `${item.image} is ${label}${kind && label === "defect" ? ` (${kind})` : ""}.` : `The label of ${item.image} was taken back.`);
}

function move(by) {
  current = Math.min(items.length - 1, Math.max(0, current + by));
  show();
}

function label(word, kind = "") {
  if (!mayLabel) { tell("Labelling takes the role inspector."); return; }
  done.push([current, items[current].label, items[current].kind]);
  send(current, word, kind);
  move(1);
}

function undo() {
  const last = done.pop();
  if (!last) { tell("There is nothing to undo."); return; }
  const [number, word, kind] = last;
  current = number;
  send(number, word ?? "", kind);
  show();
}

function list() {
  of("kinds").replaceChildren(...kinds.slice(0, 9).map((kind, n) => {
    const row = document.createElement("li"), button = document.createElement("button"), key = document.createElement("kbd");
    button.textContent = `${kind} `;
    key.textContent = n + 1;
    button.append(key);
    button.addEventListener("click", () => label("defect", kind));
    row.append(button);
    return row;
  }));
}

const DO = { good: () => label("good"), defect: () => label("defect"), undo, previous: () => move(-1), next: () => move(1) };
const KEYS = { g: "good", d: "defect", u: "undo", p: "previous", ArrowLeft: "previous", n: "next", ArrowRight: "next" };

if (items.length) {
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const kind = kinds[Number(event.key) - 1];
    if (KEYS[event.key]) DO[KEYS[event.key]]();
    else if (kind !== undefined && Number(event.key) <= 9) label("defect", kind);
    else return;
    event.preventDefault();
  });
  of("buttons").addEventListener("click", (event) => {
    const name = event.target.closest("[data-do]")?.dataset.do;
    if (name) DO[name]();
  });
  of("new-kind").addEventListener("submit", (event) => {
    event.preventDefault();
    const kind = event.target.elements.kind.value.trim();
    if (kind && !kinds.includes(kind)) kinds.push(kind);
    event.target.reset();
    list();
    of("review").focus();
  });
  for (const slider of document.querySelectorAll("[data-opacity]")) {
    const blend = () => of("review").style.setProperty("--heat", slider.value / 100);
    slider.addEventListener("input", blend);
    blend();
  }
  list();
  show();
  of("review").focus({ preventScroll: true });
}
