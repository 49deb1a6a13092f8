// A fact as a plain sentence: read by the API, shown back, and posted once somebody confirms it.

import { get, post } from "./api.js";
import { notify } from "./actions.js";
import { byId, count, el, say, show } from "./dom.js";

let understood = null; // the sentence whose readings are shown, and what the served model made of it

/** Another token is another person: what the last one typed is not posted in their name. */
export function leaveSaying() {
  byId("sentence").value = "";
  forgetReading();
}

/** `changed` is called after a post. */
export function startSaying(changed) {
  byId("say-form").addEventListener("submit", (event) => (event.preventDefault(), read()));
  byId("sentence").addEventListener("input", forgetReading);
  byId("say-post").addEventListener("click", () => confirmed(changed));
}

function forgetReading() {
  understood = null;
  byId("understood").replaceChildren();
  say(byId("say-fault"), "");
  show(byId("say-post"), false);
}

async function ask(path, content) {
  for (const id of ["say-read", "say-post"]) byId(id).disabled = true;
  try {
    return await post(path, content);
  } catch (error) {
    say(byId("say-fault"), error.status ? error.message : "The API does not answer; nothing was recorded.");
    return null;
  } finally {
    for (const id of ["say-read", "say-post"]) byId(id).disabled = false;
  }
}

async function read() {
  const statement = byId("sentence").value.trim();
  forgetReading();
  const answer = await ask("v1/statements", { statement });
  // Somebody who has typed on meanwhile would confirm what is not on the screen.
  if (answer === null || byId("sentence").value.trim() !== statement) return;
  const [{ readings, refused, reader }] = answer.statements;
  byId("understood").replaceChildren(...readings.map((one) => item(one, reader)));
  if (refused) return say(byId("say-fault"), `Not taken (${refused.kind.replaceAll("_", " ")}): ${refused.why}`);
  understood = { statement, served: reader === "served" ? readings : null };
  say(byId("say-post"), readings.length > 1 ? `Post these ${readings.length}` : "Post it");
  show(byId("say-post"), true);
}

function item(reading, reader) {
  const [before, after] = reading.prompt.split("{}");
  const asked = reading.questions.map((question) => question.replace("{}", reading.subject)).join(" / ");
  return el("li", {}, reader === "served" ? "The served model understood: " : "I understood: ",
    before, el("em", {}, reading.subject), after, " → ", el("strong", {}, reading.target),
    reading.was ? `; was ${reading.was}` : "",
    el("span", { class: "muted" }, asked ? `; asked in chat as: ${asked}` : ""));
}

async function confirmed(changed) {
  const answer = await (understood.served ? postShown(understood.served)
    : ask("v1/statements", { statement: understood.statement, confirm: true }));
  if (answer === null) return;
  leaveSaying();
  byId("sentence").focus();
  await changed();
  notify(`${count(answer.ids.length, "correction")} recorded: ${answer.ids.join(", ")}. ${next(answer)}`,
    answer.held.length ? "warn" : "ok");
}

/** Posts the readings that are on the screen: asked again, the model might read the sentence otherwise. */
async function postShown(readings) {
  const answer = await ask("v1/corrections", readings.map(({ subject, prompt, target, was, questions }) =>
    ({ subject, prompt, target, was, questions })));
  if (answer === null) return null;
  const rows = await Promise.all(answer.ids.map((id) => get(`v1/corrections/${encodeURIComponent(id)}`)));
  return { ids: answer.ids, held: rows.filter(({ state }) => state === "held").map(({ id }) => id) };
}

/** What happens to a post now, and who has to do something about it. */
function next({ ids, held }) {
  if (held.length === 0) return "The next batch brings it live; the list below shows when.";
  const those = held.length === ids.length ? "Held" : `${held.length} of them held`;
  return `${those} for review: somebody else has to approve, with a token of their own.`;
}
