// The upper half: one sentence, four tiles, plots, the guard's steps.

import { ago, byId, count, el, keyed, number, say, show, span, words } from "./dom.js";
import { makePlot, title, updatePlot } from "./plot.js";

// As long as the alert "corrections wait" allows.
const OLD_SECONDS = 600;
const PLOTTED = [
  "weight_norm_ratio", "spectral_norm_ratio", "probe_perplexity_ratio", "probe_kl_nats",
  "retention_ratio", "subspace_similarity", "neighbourhood_ratio", "value_norm_ratio",
];
const EVERY = { 1: "its replica", 2: "both replicas" };
const OUTCOMES = { accepted: "ok", rejected: "limit", inconclusive: "unknown" };
const STEP_LEVELS = { rollback: "limit", pause: "limit", quarantine: "warn", refuse: "warn", compact: "info", consolidate: "info" };

export function showOverview(s) {
  showHeadline(s);
  showServing(s);
  showQueue(s);
  showGuard(s);
  showForecast(s);
  showStability(s);
  showSteps(s);
}

function showHeadline(s) {
  const [level, text, more] = headline(s);
  byId("headline").dataset.level = level;
  say(byId("headline-text"), text);
  say(byId("headline-more"), more ?? "");
  document.title = `${level === "ok" ? "" : "● "}${s.live} · factd`;
}

/** [level, what matters most now, what to add]: the worst first. */
function headline(s) {
  const behind = s.replicas.filter((r) => !r.in_sync && r.state !== "publishing");
  const silent = behind.filter((r) => r.version == null);
  const states = Object.entries(s.verdict?.guards ?? {});
  const at = (level) => states.filter(([, state]) => state === level).map(([name]) => title(name)).join(", ");
  if (behind.length) {
    const level = behind.length === s.replicas.length ? "limit" : "warn";
    const of = `${behind.length} of ${count(s.replicas.length, "replica")}`;
    const what = silent.length === behind.length ? "does not answer" : `does not serve ${s.live}`;
    return [level, `${of} ${behind.length === 1 ? what : what.replace("does", "do")}`, s.mismatches[0] ?? "The applier gives a replica the live version as soon as it answers."];
  }
  const gone = Object.entries(s.workers).filter(([, sign]) => !sign.alive).map(([kind]) => kind);
  if (gone.length) return ["limit", `No sign of life of the ${gone.join(" and the ")} worker`, s.mismatches[0]];
  if (s.paused) {
    const guard = s.paused.actor === "guard";
    const since = s.paused.at ? ` for ${span(s.now - s.paused.at)}` : "";
    const told = s.paused.why ?? "Nothing is applied until somebody resumes.";
    return [guard ? "limit" : "warn", `The queue is paused by ${guard ? "the guard" : s.paused.actor}${since}`, told];
  }
  if (at("limit")) return ["limit", `Past its limit: ${at("limit")}`, (s.verdict.reasons ?? []).join("; ")];
  if (s.oldest_pending_seconds > OLD_SECONDS)
    return ["warn", `Corrections have waited for ${span(s.oldest_pending_seconds)}`, "Is the apply worker running?"];
  const serves = `${s.live} serves ${count(s.counts.live, "fact")}` +
    (s.replicas.length ? ` on ${EVERY[s.replicas.length] ?? `all ${s.replicas.length} replicas`}` : "");
  if (at("warn")) return ["warn", `Watch: ${at("warn")}`, `${serves}; nothing is past a limit.`];
  return ["ok", "All is well", `${serves}.`];
}

function showServing(s) {
  say(byId("serving"), s.live);
  const since = s.last_live_at ? `; last went live ${span(s.now - s.last_live_at)} ago` : "";
  say(byId("serving-more"), `${count(s.counts.live, "live fact")}${since}`);
  keyed(byId("replicas"), s.replicas.map((r, i) => ({ ...r, i })), (r) => r.i,
    () => chipRow(),
    (node, r) => {
      const level = r.in_sync ? "ok" : r.version == null ? "limit" : "warn";
      const told = r.in_sync ? "in sync" : r.serves == null ? "no answer" : `serves ${r.serves}`;
      fillChip(node, level, told, r.name);
    });
}

function showQueue(s) {
  say(byId("queue"), s.pending === 0 ? "empty" : `${s.pending} waiting`);
  const oldest = s.pending ? `oldest ${span(s.oldest_pending_seconds)}` : "nothing waits";
  const beside = s.background ? `; ${s.background.job} in the background: ${Math.floor(100 * s.background.fraction)} %` : "";
  const held = s.counts.held ? `; ${s.counts.held} held for review` : "";
  say(byId("queue-more"), (s.operations_pending ? `${oldest}; ${count(s.operations_pending, "operation")} under way` : oldest) + held + beside);
  const ends = ["rejected", "dead", "rolled_back"].filter((state) => s.counts[state]);
  say(byId("queue-ends"), ends.map((state) => `${s.counts[state]} ${words(state)}`).join(" · "));
  keyed(byId("coming"), s.coming, (one) => `${one.change} ${one.id ?? one.at}`, () => chipRow(), (node, one) => {
    const left = Date.parse(one.at) / 1000 - s.now;
    const when = left > 0 ? `in ${span(left)}` : "due";
    fillChip(node, "info", one.change, one.subject ? `${one.subject} → ${one.target}, ${when}` : when);
  });
  show(byId("pause"), !s.paused);
  show(byId("resume"), Boolean(s.paused));
}

function showGuard(s) {
  const outcome = s.verdict?.outcome;
  say(byId("guard"), outcome ?? "no verdict yet");
  byId("guard").dataset.level = OUTCOMES[outcome] ?? "";
  const states = Object.entries(s.verdict?.guards ?? {});
  const troubled = states.filter(([, state]) => state !== "ok");
  const well = `${states.length - troubled.length} of ${states.length} guards are ok`;
  const again = s.watched_at ? `; looked at again ${span(s.now - s.watched_at)} ago` : "";
  say(byId("guard-more"), states.length ? `${well} with ${s.live}${again}` : "The base model is not judged.");
  const mends = Object.fromEntries(s.guards.map((guard) => [guard.name, guard.mend]));
  const reasons = s.verdict?.reasons ?? [];
  const told = troubled.map(([name, state]) => ({
    name, state, why: reasons.find((reason) => reason.startsWith(name)) ?? mends[name] ?? "",
  }));
  keyed(byId("guards"), told, (one) => one.name, () => chipRow(),
    (node, one) => fillChip(node, one.state, one.state, one.why.startsWith(one.name) ? one.why : `${title(one.name)}: ${one.why}`));
}

function showForecast(s) {
  const [next] = s.forecasts;
  const ends = next && next.edits != null;
  say(byId("forecast"), ends ? `${Math.floor(next.edits)} edits` : next || s.edits_until_limit !== null ? "no end in sight" : "not known yet");
  byId("forecast").dataset.level = ends && next.edits < 50 ? "warn" : "";
  if (!ends) return say(byId("forecast-more"), s.forecast ?? "");
  const low = Math.floor(next.low);
  say(byId("forecast-more"),
    `${next.high == null ? `${low} or more` : `${low} to ${Math.ceil(next.high)}`}, until ${title(next.measure)} ` +
    `(${number(next.value)}, ${next.law} growth) reaches ${number(next.limit)}`);
}

function showStability(s) {
  const versions = s.versions.filter((v) => Object.values(v.values).some((value) => value != null)).reverse();
  const plotted = PLOTTED.map((name) => s.guards.find((guard) => guard.name === name)).filter(Boolean);
  keyed(byId("plots"), plotted, (guard) => guard.name, makePlot,
    (node, guard) => updatePlot(node, guard, versions, s.limits[guard.name], s.verdict?.guards[guard.name]));
  const columns = s.guards.map((guard) => guard.name);
  keyed(byId("numbers-head"), ["version", ...columns], (name) => name,
    (name) => el("th", { scope: "col" }, title(name)), () => {});
  keyed(byId("numbers"), [...versions].reverse(), (v) => v.id,
    (v) => el("tr", {}, el("th", { scope: "row" }, v.id), ...columns.map(() => el("td"))),
    (node, v) => columns.forEach((name, i) => say(node.children[i + 1], v.shown[name] ?? number(v.values[name]))));
}

function showSteps(s) {
  show(byId("steps"), s.last_steps.length > 0);
  show(byId("no-steps"), s.last_steps.length === 0);
  keyed(byId("steps"), s.last_steps, (step) => `${step.at} ${step.step} ${step.on}`,
    () => {
      const node = el("li", { class: "step" });
      node.parts = { chip: el("span", { class: "chip" }), why: el("span", { class: "why" }), time: el("time") };
      node.append(node.parts.chip, node.parts.why, node.parts.time);
      return node;
    },
    (node, step) => {
      const would = step.step.startsWith("would_");
      node.parts.chip.dataset.level = would ? "info" : (STEP_LEVELS[step.step] ?? "unknown");
      say(node.parts.chip, words(step.step));
      say(node.parts.why, step.on ? `${step.on}: ${step.why ?? ""}` : "");
      ago(node.parts.time, step.at, s.now);
    });
}

function chipRow() {
  const node = el("li");
  node.parts = { chip: el("span", { class: "chip" }), text: el("span") };
  node.append(node.parts.chip, " ", node.parts.text);
  return node;
}

function fillChip(node, level, word, text) {
  node.parts.chip.dataset.level = level;
  say(node.parts.chip, word);
  say(node.parts.text, text);
}
