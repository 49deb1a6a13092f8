// One measure over versions, with the levels where the guard warns and stops, as inline SVG.

import { el, number, say, words } from "./dom.js";

const WIDTH = 300, HEIGHT = 136, LEFT = 8, RIGHT = 8, TOP = 18, BOTTOM = 34;
const NAMES = {
  subspace_similarity: "subspace similarity (LS)",
  probe_kl_nats: "KL from the base, nats",
  probe_perplexity_ratio: "perplexity ratio",
  retention_ratio: "retention",
  neighbourhood_ratio: "neighbourhood",
  value_norm_ratio: "value norm over anchor",
};

export const title = (measure) => NAMES[measure] ?? words(measure);

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

export function makePlot(guard) {
  const node = el("figure", { class: "plot card" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  node.parts = { reading: el("span", { class: "reading" }), drawing };
  node.append(el("figcaption", {}, el("span", {}, title(guard.name)), node.parts.reading), drawing);
  drawing.addEventListener("pointermove", (event) => point(node, event));
  drawing.addEventListener("pointerleave", () => rest(node));
  return node;
}

/** `versions`: oldest first, each with `values`. `levels`: [warn, limit], or undefined when unknown. */
export function updatePlot(node, guard, versions, levels, state) {
  const points = versions
    .filter((v) => v.values[guard.name] != null)
    .map((v) => ({ id: v.id, value: v.values[guard.name], undone: v.state === "rolled_back" }));
  const drawn = JSON.stringify([points, levels]);
  node.dataset.level = state ?? "unknown";
  if (drawn === node.drawn) return;
  node.drawn = drawn;
  node.points = points;
  draw(node.parts.drawing, node, guard, levels);
  rest(node);
}

function draw(drawing, node, guard, levels) {
  const { points } = node;
  const lines = drawnLevels(guard, levels);
  const healthy = guard.name.endsWith("_nats") ? 0 : 1;
  const all = [healthy, ...points.map((p) => p.value), ...lines.map((line) => line.at)];
  const low = Math.min(...all), high = Math.max(...all), room = 0.06 * (high - low || 1);
  const y = (value) => TOP + ((high + room - value) / (high - low + 2 * room)) * (HEIGHT - TOP - BOTTOM);
  const step = (WIDTH - LEFT - RIGHT - 6) / Math.max(1, points.length - 1);
  points.forEach((p, i) => Object.assign(p, { x: LEFT + 3 + i * step, y: y(p.value) }));

  drawing.replaceChildren(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(healthy), y2: y(healthy) }));
  for (const line of lines) {
    const at = y(line.at);
    drawing.append(svg("line", { class: line.kind, x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
    // Beyond the line, seen from healthy values: the measure itself is on the other side.
    const beside = guard.high_is_bad ? { y: at - 4 } : { y: at + 3, "dominant-baseline": "hanging" };
    const label = { class: line.kind, x: WIDTH - RIGHT, "text-anchor": "end", ...beside };
    drawing.append(svg("text", label, `${line.word} ${number(line.at)}`));
  }
  const kept = points.filter((p) => !p.undone);
  drawing.append(svg("polyline", { class: "values", points: kept.map((p) => `${p.x},${p.y}`).join(" ") }));
  for (const p of points.filter((p) => p.undone)) drawing.append(svg("circle", { class: "undone", cx: p.x, cy: p.y, r: 3 }));
  if (kept.length) drawing.append(svg("circle", { class: "last", cx: kept.at(-1).x, cy: kept.at(-1).y, r: 3.4 }));
  node.cross = svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  drawing.append(node.cross);
  if (points.length) {
    drawing.append(svg("text", { class: "tick", x: LEFT, y: HEIGHT - 5 }, points[0].id));
    drawing.append(svg("text", { class: "tick", x: WIDTH - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, points.at(-1).id));
  }
  drawing.setAttribute("aria-label", spoken(guard, points, lines));
}

/** A limit of 0 on a measure that is bad when low never stops anything: only the warning is drawn. */
function drawnLevels(guard, levels) {
  if (!levels) return [];
  const [warn, limit] = levels;
  const found = [{ kind: "warn", word: "warns", at: warn }];
  if (guard.high_is_bad || limit > 0) found.push({ kind: "limit", word: "limit", at: limit });
  return found;
}

function spoken(guard, points, lines) {
  const levels = lines.map((line) => `${line.word} ${number(line.at)}`).join(", ");
  if (!points.length) return `${title(guard.name)}: not measured. ${levels}`;
  const values = points.map((p) => p.value);
  const now = points.filter((p) => !p.undone).at(-1) ?? points.at(-1);
  return `${title(guard.name)}: ${number(now.value)} at ${now.id}; from ${number(Math.min(...values))} to ` +
    `${number(Math.max(...values))} over ${points.length} versions. ${levels}`;
}

function point(node, event) {
  if (!node.points.length) return;
  const box = node.parts.drawing.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * WIDTH;
  const near = node.points.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
  for (const end of ["x1", "x2"]) node.cross.setAttribute(end, near.x);
  node.cross.setAttribute("visibility", "visible");
  say(node.parts.reading, `${near.id}${near.undone ? " (undone)" : ""}: ${number(near.value)}`);
}

function rest(node) {
  node.cross.setAttribute("visibility", "hidden");
  const last = node.points.filter((p) => !p.undone).at(-1);
  say(node.parts.reading, last ? number(last.value) : "not measured");
}
