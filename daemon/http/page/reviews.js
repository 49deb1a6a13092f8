// Corrections that are held: what speaks against each, and the two decisions about it.

import { ago, byId, el, keyed, say, show } from "./dom.js";

/** `decide(correction, decision)` is called by the two buttons; decision is "approve" or "reject".
 * `who` has name and scope of the token in use. */
export function showReviews(held, now, who, decide) {
  show(byId("reviews-section"), held.length > 0);
  keyed(byId("reviews"), held, (c) => c.id, () => reviewRow(decide), (node, c) => fill(node, c, now, who));
}

function reviewRow(decide) {
  const parts = {
    score: el("span", { class: "chip", "data-level": "warn" }), prompt: el("span", { class: "prompt" }), target: el("strong"),
    time: el("time"), why: el("ul", { class: "plain" }), from: el("p", { class: "muted" }), own: el("p", { class: "own" }),
    approve: el("button", { type: "button" }, "Approve…"), reject: el("button", { type: "button" }, "Reject…"),
  };
  const answer = el("span", { class: "answers" }, el("span", { "aria-hidden": "true" }, " → "), parts.target);
  const node = el("li", {}, el("details", { open: "" },
    el("summary", {}, parts.score, parts.prompt, answer, parts.time),
    el("div", { class: "inside" }, parts.from, parts.why, parts.own, el("p", { class: "buttons" }, parts.approve, parts.reject))));
  parts.approve.addEventListener("click", () => decide(node.correction, "approve"));
  parts.reject.addEventListener("click", () => decide(node.correction, "reject"));
  node.parts = parts;
  return node;
}

function fill(node, c, now, { name, scope }) {
  const { parts } = node;
  const own = c.posted_by === `http:${name}` || c.source === name;
  const takesBack = own && scope !== "submit";
  node.correction = c;
  say(parts.score, `score ${c.score ?? "?"}`);
  say(parts.prompt, c.prompt);
  say(parts.target, c.target);
  say(parts.from, `Posted by ${c.posted_by ?? "?"}${c.source ? ` as ${c.source}` : ""}${c.was ? `; was ${c.was}` : ""}`);
  ago(parts.time, c.received_at, now);
  keyed(parts.why, c.findings, (finding) => finding.rule, () => el("li"),
    (row, finding) => say(row, `${finding.rule.replaceAll("_", " ")} (${finding.points}): ${finding.why}`));
  parts.approve.setAttribute("aria-label", `Approve: ${c.prompt} ${c.target}…`);
  show(parts.approve, !own);
  show(parts.reject, !own || takesBack);
  say(parts.own, own ? `You posted this: somebody else has to approve it.${takesBack ? " You may take it back." : ""}` : "");
  say(parts.reject, own ? "Take back…" : "Reject…");
  parts.reject.setAttribute("aria-label", `${own ? "Take back" : "Reject"}: ${c.prompt} ${c.target}…`);
}
