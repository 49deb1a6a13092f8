// The lower half: corrections and versions, each row with what can be done to it.

import { ago, byId, el, keyed, say, show, words } from "./dom.js";

const LEVELS = {
  live: "ok", already_known: "ok", rejected: "limit", dead: "limit", rolled_back: "warn",
  superseded: "unknown", retracted: "unknown", held: "warn", past: "unknown", discarded: "limit",
};
const CAN_GO_BACK = ["past", "rolled_back"];

/** `retract(correction)` is called by the button of a live fact. */
export function showCorrections(found, now, retract) {
  keyed(byId("corrections-list"), found, (c) => c.id, () => correctionRow(retract), (node, c) => fillCorrection(node, c, now));
}

function correctionRow(retract) {
  const parts = {
    chip: el("span", { class: "chip" }), prompt: el("span", { class: "prompt" }), before: el("span", { class: "before" }),
    role: el("span", { class: "unseen" }), after: el("strong", { class: "after" }), time: el("time"), facts: el("dl"), retract: el("button", { type: "button" }, "Retract…"),
  };
  const answers = el("span", { class: "answers" },
    el("span", { class: "unseen" }, "before: "), parts.before, el("span", { class: "arrow", "aria-hidden": "true" }, " → "),
    parts.role, parts.after);
  const node = el("li", {}, el("details", {},
    el("summary", {}, parts.chip, parts.prompt, answers, parts.time),
    el("div", { class: "inside" }, parts.facts, el("p", { class: "buttons" }, parts.retract))));
  parts.retract.addEventListener("click", () => retract(node.correction));
  node.parts = parts;
  return node;
}

function fillCorrection(node, c, now) {
  const { parts } = node;
  node.correction = c;
  parts.chip.dataset.level = LEVELS[c.state] ?? "info";
  const lost = c.state === "live" && Object.keys(c.lost ?? {}).length > 0;
  if (lost) parts.chip.dataset.level = "warn";
  say(parts.chip, lost ? "live, lost" : words(c.state));
  say(parts.prompt, c.prompt || "(refused before it was read)");
  say(parts.before, c.before ?? c.was ?? "?");
  say(parts.role, c.state === "live" ? ", now: " : ", wanted: ");
  say(parts.after, c.state === "live" ? (c.after ?? c.target) : c.target);
  node.dataset.live = c.state === "live";
  ago(parts.time, c.live_at ?? c.received_at, now);
  const exact = (at) => (at == null ? null : new Date(at * 1000).toLocaleString());
  const moment = (text) => (text == null ? null : new Date(text).toLocaleString());
  const told = [
    ["reason", c.reason], ["subject", c.subject], ["asked", c.template], ["wanted", c.target], ["before", c.before],
    ["after", c.after], ...chats(c), ["version", c.version], ["superseded by", c.superseded_by],
    ["follows from", c.parent], ["brought", brought(c)], ["reviewed by", c.reviewed_by], ["received", exact(c.received_at)],
    ["valid from", moment(c.valid_from)], ["valid until", moment(c.valid_until)],
    ["live", exact(c.live_at)], ["id", c.id], ["key", c.key],
  ].filter(([, value]) => value != null && value !== "");
  keyed(parts.facts, told, ([name]) => name,
    ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    (row, [, value]) => say(row.lastChild, value));
  parts.retract.setAttribute("aria-label", `Retract: ${c.prompt} ${c.target}…`);
  show(parts.retract, c.state === "live");
}

/** What follows from a correction, a line each. */
const brought = (c) => c.children.map((one) => `${one.prompt} ${one.target} (${words(one.state)})`).join("\n");

/** What was asked in chat, and what was answered before the correction and after it. */
function chats(c) {
  return Object.entries(c.answers ?? {}).map(([form, told]) =>
    [`in chat (${form})`, `${told.asked} ${told.before ?? "?"} → ${told.after ?? "?"}`]);
}

/** `rollBack(version)` is called by the button of a version that can be served again. */
export function showVersions(s, rollBack) {
  keyed(byId("versions"), s.versions, (v) => v.id, () => versionRow(rollBack), (node, v) => fillVersion(node, v, s.now));
}

function versionRow(rollBack) {
  const parts = {
    chip: el("span", { class: "chip" }), id: el("span", { class: "id" }), change: el("span", { class: "muted" }),
    reason: el("span", { class: "why" }), time: el("time"), back: el("button", { type: "button" }, "Roll back…"),
  };
  const node = el("li", { class: "version" },
    parts.id, parts.chip, parts.change, parts.time, parts.back, parts.reason);
  parts.back.addEventListener("click", () => rollBack(node.version));
  node.parts = parts;
  return node;
}

function fillVersion(node, v, now) {
  const { parts } = node;
  node.version = v;
  parts.chip.dataset.level = LEVELS[v.state] ?? "info";
  say(parts.chip, words(v.state));
  say(parts.id, v.id);
  const signs = [v.added ? `+${v.added}` : "", v.removed ? `−${v.removed}` : ""].filter(Boolean).join(" ");
  say(parts.change, v.parent == null ? "the base model" : signs || "rewritten");
  // Why a version is past says nothing: a newer one is live.
  say(parts.reason, ["discarded", "rolled_back"].includes(v.state) ? (v.reason ?? "") : "");
  ago(parts.time, v.live_at ?? (v.created_at || null), now);
  parts.back.setAttribute("aria-label", `Roll back to ${v.id}…`);
  show(parts.back, CAN_GO_BACK.includes(v.state));
}
