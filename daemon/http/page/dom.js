// Elements from texts, never from markup: what users wrote can only ever be text.

/** An element with attributes and children; strings become text nodes. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Sets the text only if it differs: selections stay, and live regions speak of changes alone. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows or hides; a focus inside what goes away moves to the list around it. */
export function show(node, shown) {
  if (!shown && node.contains(document.activeElement)) refuge(node)?.focus();
  node.hidden = !shown;
}

/** Brings the children of `parent` in line with `items` and keeps the elements of those that stay, with
 * their focus and whether they are open. */
export function keyed(parent, items, keyOf, make, update) {
  const wanted = new Set(items.map((item) => String(keyOf(item))));
  const kept = new Map();
  for (const node of [...parent.children]) {
    if (wanted.has(node.dataset.key)) kept.set(node.dataset.key, node);
    else {
      if (node.contains(document.activeElement)) refuge(node)?.focus();
      node.remove();
    }
  }
  items.forEach((item, index) => {
    const key = String(keyOf(item));
    const node = kept.get(key) ?? make(item);
    node.dataset.key = key;
    update(node, item);
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

const refuge = (node) => node.parentElement.closest("[tabindex], summary");

/** 42 → "42 s", 180 → "3 min", 7300 → "2 h". */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** A <time> that says how long ago; the exact time is its tooltip. */
export function ago(node, at, now) {
  say(node, at == null ? "" : `${span(now - at)} ago`);
  if (at == null) return;
  const when = new Date(at * 1000);
  node.dateTime = when.toISOString();
  node.title = when.toLocaleString();
}

export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export const words = (name) => name.replaceAll("_", " ");

/** Four significant digits, without trailing zeros. */
export const number = (value) => (value == null ? "–" : String(Number(value.toPrecision(4))));
