"use strict";
// Draws a line's scores over time against the threshold, its marks, and below them on the same axis how its images were
// taken. Drag to look closer; a point leads to its verdict.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1120, HEIGHT = 300, LANE = 54, LEFT = 52, RIGHT = 8, TOP = 10, GAP = 18;
const LANES = ["brightness", "contrast", "focus"];
const SHAPES = {
  pass: (x, y) => `M${x - 2.6} ${y}a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0`,
  review: (x, y) => `M${x} ${y - 4.6}l4.6 4.6l-4.6 4.6l-4.6 -4.6Z`,
  reject: (x, y) => `M${x} ${y - 5}l5 9h-10Z`,
};
const EVERY_LATEST = 2000; // milliseconds between two looks at the latest verdicts

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function ticks(low, high, most) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => span / each <= most);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(+at.toPrecision(6));
  return found;
}

function timeTicks(low, high, most) {
  const steps = [1, 5, 15, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find((each) => (high - low) / each <= most) ?? 2419200;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  const words = (at) => {
    const text = new Date(at * 1000).toISOString();
    return step < 60 ? text.slice(11, 19) : step < 86400 ? text.slice(11, 16) : text.slice(5, 10);
  };
  return found.map((at) => [at, words(at)]);
}

// linear near the threshold, where an image is passed or rejected, and logarithmic far from it
function bend(samples) {
  const scores = samples.map((each) => each[1]).filter((each) => each !== null).sort((a, b) => a - b);
  const thresholds = samples.map((each) => each[2]).filter((each) => each !== null).sort((a, b) => a - b);
  const pivot = thresholds[Math.floor(thresholds.length / 2)] ?? scores[Math.floor(scores.length / 2)] ?? 0;
  const low = Math.min(scores[0] ?? 0, pivot), high = Math.max(scores[scores.length - 1] ?? 1, pivot);
  // the room of the passes: half of the distance from their middle to the threshold, whatever the farthest defect has
  const middle = scores[Math.floor(scores.length / 2)] ?? low;
  const width = Math.max(Math.abs(pivot - middle), (high - low) / 5000, 1e-9) / 2;
  const to = (score) => Math.asinh((score - pivot) / width);
  const pad = 0.04 * (to(high) - to(low) || 1);
  return { to, low: to(low) - pad, high: to(high) + pad, pivot, width };
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + LANES.length * (LANE + GAP) + 22}`, role: "img" });
    figure.prepend(this.svg);
    this.span = null;
    this.listen();
    this.follow();
  }

  async follow() {
    for (;;) {
      if (!document.hidden && (this.span === null || this.asked !== this.span)) await this.load();
      await new Promise((done) => setTimeout(done, EVERY_LATEST));
    }
  }

  async load() {
    this.asked = this.span;
    const asked = this.span === null ? "" : `?since=${iso(this.span[0])}&until=${iso(this.span[1])}`;
    try {
      const answer = await fetch(this.figure.dataset.samples + asked, { headers: { accept: "application/json" } });
      const found = await answer.json();
      if (this.asked !== this.span) return; // another span was asked for meanwhile
      if (!answer.ok) { this.tell(found.message); return; }
      const text = JSON.stringify(found);
      if (text === this.text && this.svg.hasChildNodes()) { this.tell(this.words); return; }
      this.text = text;
      this.draw(found);
    } catch {
      this.tell("The console does not answer.");
    }
  }

  tell(words) {
    const told = document.querySelector("[data-told]");
    if (told && told.textContent !== words) told.textContent = words;
  }

  draw({ samples, decisions, marks, images }) {
    this.svg.replaceChildren();
    this.words = samples.length < images ? `${images} images; passes are thinned out` : `${images} images`;
    this.tell(this.words);
    if (samples.length === 0) {
      this.svg.setAttribute("aria-label", "no verdicts in this span of time");
      this.svg.append(element("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no verdicts"));
      return;
    }
    const first = samples[0][0], last = samples[samples.length - 1][0] || first + 1;
    this.low = first;
    this.high = last > first ? last : first + 1;
    const x = (at) => LEFT + ((at - this.low) / (this.high - this.low)) * (WIDTH - LEFT - RIGHT);
    const scale = bend(samples);
    const y = (score) => TOP + (1 - (scale.to(score) - scale.low) / (scale.high - scale.low)) * (HEIGHT - TOP);
    const counts = decisions.map((name, n) => `${samples.filter((each) => each[3] === n).length} ${name}`).join(", ");
    this.svg.setAttribute("aria-label", `Scores of ${samples.length} images against the threshold: ${counts}`);
    this.axes(x, y, scale);
    for (const mark of marks) {
      const at = x(mark.at);
      const line = element("path", { class: `mark ${mark.kind}`, d: `M${at} ${TOP}V${HEIGHT + LANES.length * (LANE + GAP)}` });
      line.append(element("title", {}, mark.text));
      this.svg.append(line);
    }
    this.svg.append(element("path", { class: "threshold", d: steps(samples, x, y) }));
    for (const [n, name] of decisions.entries()) {
      for (const each of samples) {
        if (each[3] !== n || each[1] === null) continue;
        const point = element("path", { class: `point ${name}`, d: SHAPES[name](+x(each[0]).toFixed(1), +y(each[1]).toFixed(1)) });
        const day = new Date(each[0] * 1000).toISOString();
        point.dataset.to = `/verdicts/${each[4]}?day=${day.slice(0, 10)}`;
        point.append(element("title", {}, `${name}, score ${each[1]}, ${day.slice(0, 19).replace("T", " ")} UTC`));
        this.svg.append(point);
      }
    }
    LANES.forEach((name, lane) => this.lane(name, lane, samples, x));
    this.band = element("rect", { class: "band", y: TOP, height: HEIGHT + LANES.length * (LANE + GAP) - TOP, width: 0 });
    this.svg.append(this.band);
  }

  axes(x, y, scale) {
    const round = [0, 1, 2, 5].flatMap((n) => [-3, -2, -1, 0, 1, 2, 3].map((p) => n * 10 ** p));
    const values = [...new Set([...round, ...round.map((each) => -each), ...ticks(scale.pivot - scale.width, scale.pivot + scale.width, 4)])];
    const placed = [];
    for (const value of values) {
      const at = y(value);
      if (at < TOP || at > HEIGHT || placed.some((other) => Math.abs(other - at) < 26)) continue;
      placed.push(at);
      this.svg.append(element("path", { class: "grid", d: `M${LEFT} ${at}H${WIDTH - RIGHT}` }));
      this.svg.append(element("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, `${value}`));
    }
    const bottom = HEIGHT + LANES.length * (LANE + GAP);
    for (const [at, words] of timeTicks(this.low, this.high, 10)) {
      this.svg.append(element("path", { class: "grid", d: `M${x(at)} ${TOP}V${bottom}` }));
      this.svg.append(element("text", { x: x(at), y: bottom + 16, "text-anchor": "middle" }, words));
    }
  }

  lane(name, lane, samples, x) {
    const top = HEIGHT + GAP + lane * (LANE + GAP);
    const values = samples.map((each) => each[5 + lane]);
    const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
    const y = (value) => top + LANE - ((value - low) / span) * LANE;
    this.svg.append(element("text", { x: LEFT, y: top - 4 }, name));
    this.svg.append(element("text", { x: LEFT - 6, y: top + LANE, "text-anchor": "end" }, low.toPrecision(3)));
    this.svg.append(element("text", { x: LEFT - 6, y: top + 10, "text-anchor": "end" }, high.toPrecision(3)));
    const d = samples.map((each, n) => `${n ? "L" : "M"}${x(each[0]).toFixed(1)} ${y(values[n]).toFixed(1)}`).join("");
    this.svg.append(element("path", { class: "lane", d }));
  }

  listen() {
    let from = null;
    const at = (event) => {
      const box = this.svg.getBoundingClientRect();
      return Math.min(WIDTH - RIGHT, Math.max(LEFT, ((event.clientX - box.left) / box.width) * WIDTH));
    };
    const time = (place) => this.low + ((place - LEFT) / (WIDTH - LEFT - RIGHT)) * (this.high - this.low);
    this.svg.addEventListener("pointerdown", (event) => { from = at(event); });
    this.svg.addEventListener("pointermove", (event) => {
      if (from === null || !this.band) return;
      const to = at(event);
      this.band.setAttribute("x", Math.min(from, to));
      this.band.setAttribute("width", Math.abs(to - from));
    });
    addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [low, high] = [from, at(event)].sort((a, b) => a - b);
      from = null;
      this.band?.setAttribute("width", 0);
      if (high - low > 8) this.show(time(low), time(high));
    });
    this.svg.addEventListener("click", (event) => {
      const to = event.target.closest("[data-to]")?.dataset.to;
      if (to) location.href = to;
    });
    const form = document.querySelector("[data-span]");
    form?.addEventListener("submit", (event) => {
      event.preventDefault();
      const [since, until] = ["since", "until"].map((name) => Date.parse(`${form.elements[name].value}Z`) / 1000);
      if (Number.isNaN(since) || Number.isNaN(until)) this.tell("Give both times.");
      else this.show(since, until);
    });
    form?.querySelector("[data-now]").addEventListener("click", () => { this.span = null; this.load(); });
  }

  show(since, until) {
    this.span = [since, until];
    const form = document.querySelector("[data-span]");
    if (form) [form.elements.since.value, form.elements.until.value] = [iso(since), iso(until)].map((each) => each.slice(0, 19));
    this.load();
  }
}

function iso(seconds) {
  return new Date(seconds * 1000).toISOString();
}

function steps(samples, x, y) {
  let d = "", before = null;
  for (const [at, , threshold] of samples) {
    if (threshold === null) { before = null; continue; }
    d += before === null ? `M${x(at).toFixed(1)} ${y(threshold).toFixed(1)}` : `H${x(at).toFixed(1)}`;
    if (before !== null && before !== threshold) d += `V${y(threshold).toFixed(1)}`;
    before = threshold;
  }
  return d;
}

document.querySelectorAll("figure[data-samples]").forEach((figure) => new Chart(figure));
