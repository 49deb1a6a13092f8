// Asks the API every few seconds and shows what it says. Without a token there are numbers only.

import { forget, get } from "./api.js";
import { notify, retract, review, rollBack, setScope, start } from "./actions.js";
import { byId, count, el, say, show, span, words } from "./dom.js";
import { showCorrections, showVersions } from "./lists.js";
import { showOverview } from "./overview.js";
import { showReviews } from "./reviews.js";
import { leaveSaying, startSaying } from "./say.js";

const POLL_MS = 5000, TYPING_MS = 300, TICK_MS = 1000, ROWS = 20, MOST_ROWS = 1000;

let shownAt = null; // when the data on the page came, in milliseconds of this computer's clock
let rows = ROWS;
let timer, typing;
let name = null; // of the token that the page was last drawn with
let latest = 0; // the number of the last request: a slow answer must not overwrite a newer one

async function refresh() {
  clearTimeout(timer);
  const mine = ++latest;
  try {
    const status = await get("v1/status");
    const corrections = status.scope ? await get(`v1/corrections?${query()}`) : [];
    const held = status.scope && status.counts.held ? await get(`v1/reviews?limit=${ROWS}`) : [];
    if (mine === latest) draw(status, corrections, held);
  } catch (error) {
    if (mine === latest) lost(error);
  } finally {
    if (mine === latest) timer = setTimeout(refresh, POLL_MS);
  }
}

function query() {
  const asked = new URLSearchParams({ limit: rows });
  if (byId("search").value.trim()) asked.set("containing", byId("search").value.trim());
  if (byId("state").value) asked.set("state", byId("state").value);
  return asked;
}

function draw(status, corrections, held) {
  shownAt = Date.now();
  setScope(status.scope, status.name);
  if (status.name !== name) leaveSaying();
  name = status.name;
  show(byId("content"), true);
  byId("connection").hidden = true;
  byId("content").classList.remove("old");
  showOverview(status);
  showVersions(status, rollBack);
  const mayRead = Boolean(status.scope);
  show(byId("filter"), mayRead);
  show(byId("say-form"), mayRead);
  show(byId("corrections-list"), corrections.length > 0);
  show(byId("corrections-note"), !mayRead);
  show(byId("no-corrections"), mayRead && corrections.length === 0);
  show(byId("more"), corrections.length === rows && rows < MOST_ROWS);
  if (byId("state").options.length === 1)
    byId("state").append(...Object.keys(status.counts).map((state) => el("option", { value: state }, words(state))));
  showCorrections(corrections, status.now, retract);
  showReviews(held, status.now, status, review);
  if (mayRead) say(byId("found"), `${count(corrections.length, "correction")} shown`);
  tick();
}

function lost(error) {
  if (error.status === 401) {
    forget();
    notify("The server does not know this token any more; it was forgotten.", "limit");
    return refresh();
  }
  const what = error.status ? `The API answers with an error (${error.status}): ${error.message}` : "The API cannot be reached.";
  const since = shownAt ? ` What you see is from ${new Date(shownAt).toLocaleTimeString()}.` : " Nothing could be loaded yet.";
  byId("connection").hidden = false;
  byId("content").classList.add("old");
  say(byId("connection"), `${what}${since} The page goes on trying.`);
  tick();
}

/** The age of the data; outside of live regions, or a screen reader would speak every second. */
function tick() {
  if (shownAt === null) return say(byId("freshness"), "No data yet");
  const seconds = (Date.now() - shownAt) / 1000;
  say(byId("freshness"), seconds < 8 ? "Up to date" : `${span(seconds)} old`);
}

start(refresh);
startSaying(refresh);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refresh, TYPING_MS);
});
byId("state").addEventListener("change", refresh);
byId("more").addEventListener("click", () => {
  rows = Math.min(MOST_ROWS, rows * 4);
  refresh();
});
// A tab in the background asks nothing; it catches up when it is looked at.
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
setInterval(tick, TICK_MS);
refresh();
