// What the page can do: take a token, and ask for operations after a confirmation with a reason.

import { ApiError, forget, get, post, remember, token } from "./api.js";
import { byId, say } from "./dom.js";

const POLL_MS = 1000;
// An operation that takes longer stays recorded; the page goes on without it.
const PATIENCE_MS = 600_000;

let scope = null, name = null; // what the token may, and whose it is
let changed = () => {};
let asked = null; // the operation in the dialog: {path, done, title, text, verb}

/** `refresh` is called after whatever changes what the page may show or what is live. */
export function start(refresh) {
  changed = refresh;
  for (const id of ["sign-in", "sign-in-here"]) byId(id).addEventListener("click", () => (token() ? signOut() : signIn()));
  byId("token-form").addEventListener("submit", (event) => (event.preventDefault(), tryToken()));
  byId("act-form").addEventListener("submit", (event) => (event.preventDefault(), act()));
  for (const button of document.querySelectorAll("[data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());
  byId("pause").addEventListener("click", () => confirm(PAUSE));
  byId("resume").addEventListener("click", () => confirm(RESUME));
  byId("compact").addEventListener("click", () => confirm(COMPACT));
  byId("consolidate").addEventListener("click", () => confirm(CONSOLIDATE));
}

const PAUSE = {
  path: "v1/pause", title: "Pause the queue?", verb: "Pause", done: "Pause",
  text: "Corrections are taken and wait; what is served stays as it is.",
};
const RESUME = {
  path: "v1/resume", title: "Resume the queue?", verb: "Resume", done: "Resume",
  text: "Waiting corrections are applied again. A pause by the guard ends too, and its budget of rollbacks begins anew.",
};
const COMPACT = {
  path: "v1/compact", title: "Compact?", verb: "Compact", done: "Compaction",
  text: "All live facts are written anew from the base weights and judged like any version. Corrections go on meanwhile.",
};
const CONSOLIDATE = {
  path: "v1/consolidate", title: "Consolidate?", verb: "Consolidate", done: "Consolidation",
  text: "All live facts are written anew and trained on from there, for minutes to hours in the background. Corrections go on meanwhile.",
};

export const rollBack = (version) => confirm({
  path: `v1/versions/${encodeURIComponent(version.id)}/rollback`, title: `Roll back to ${version.id}?`,
  verb: `Roll back to ${version.id}`, done: `Rollback to ${version.id}`,
  text: "Its weights are served again, bit for bit. Facts that it does not hold are no longer answered.",
});

export const retract = (correction) => confirm({
  path: `v1/corrections/${encodeURIComponent(correction.id)}/retract`, title: "Retract this fact?", verb: "Retract",
  done: "Retraction", text: `“${correction.prompt} ${correction.target}” is taken out of the model${along(correction)}; other facts stay.`,
});

/** Children leave with their parent. */
const along = ({ children }) => {
  const live = children.filter((one) => one.state === "live").map((one) => `“${one.prompt} ${one.target}”`);
  return live.length ? `, with what follows from it (${live.join(", ")})` : "";
};

export const review = (correction, decision) => confirm({
  path: `v1/reviews/${encodeURIComponent(correction.id)}/${decision}`, scopes: ["admin", "review"],
  title: decision === "approve" ? "Let this correction in?" : "Reject this correction?",
  verb: decision === "approve" ? "Approve" : "Reject", done: decision === "approve" ? "Approval" : "Rejection",
  text: `“${correction.prompt} ${correction.target}”, posted by ${correction.posted_by ?? "?"}.`,
});

export function setScope(value, of) {
  [scope, name] = [value, of];
  say(byId("sign-in"), token() ? `Forget ${name ?? ""} token` : "Enter token…");
}

function signIn(why = "") {
  say(byId("token-fault"), why);
  byId("token-dialog").showModal();
}

export function signOut() {
  forget();
  setScope(null, null);
  changed();
  notify("The token was forgotten.");
}

async function tryToken() {
  const value = byId("token").value.trim();
  try {
    await get("v1/status", value);
  } catch (error) {
    say(byId("token-fault"), error.status === 401 ? "The server does not know this token." : told(error));
    return;
  }
  remember(value);
  byId("token").value = "";
  byId("token-dialog").close();
  await changed();
  notify(scope === "admin" ? "Admin token in use." : `Token “${name}” in use: you can read and post` +
    `${scope === "review" ? ", and review what others posted" : ""}; operations need the admin token.`);
}

function confirm(operation) {
  if (!(operation.scopes ?? ["admin"]).includes(scope))
    return signIn(operation.scopes ? "This needs the admin token, or that of a source that may review." : "This needs the admin token.");
  asked = operation;
  say(byId("act-title"), operation.title);
  say(byId("act-text"), operation.text);
  say(byId("act-do"), operation.verb);
  say(byId("act-fault"), "");
  byId("why").value = "";
  byId("act-dialog").showModal();
  byId("why").focus();
}

async function act() {
  const { path, done } = asked;
  const button = byId("act-do");
  button.disabled = true;
  try {
    const operation = await post(`${path}?why=${encodeURIComponent(byId("why").value.trim())}`);
    byId("act-dialog").close();
    follow(operation, done);
  } catch (error) {
    say(byId("act-fault"), `Nothing was recorded: ${told(error)}`);
  } finally {
    button.disabled = false;
  }
}

async function follow(operation, done) {
  if (operation.operation === undefined) {
    await changed(); // a review is decided at once
    const then = operation.state === "validated" ? ". The next batch brings it live; the list below shows when." : "";
    return notify(`${done} is recorded: ${operation.reason}${then}`, "ok");
  }
  notify(`${done}: recorded as operation ${operation.operation}, under way…`);
  const until = Date.now() + PATIENCE_MS;
  while (operation.state === "pending" && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      operation = await get(`v1/operations/${operation.operation}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // the page says by itself that the API is away
    }
  }
  await changed();
  if (operation.state === "pending") notify(`${done} is still under way; it stays recorded.`, "warn");
  else if (operation.state === "done") notify(`${done} is done: ${operation.reason}`, "ok");
  else notify(`${done} failed: ${operation.reason}`, "limit");
}

export function notify(text, level = "info") {
  const notice = byId("notice");
  notice.dataset.level = level;
  notice.hidden = false;
  say(notice, text);
}

const told = (error) => (error.status ? error.message : "the API does not answer.");
