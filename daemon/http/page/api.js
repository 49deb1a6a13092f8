// The HTTP API as this page uses it. The token lives in this tab's sessionStorage and nowhere else.

const KEY = "factd-token";
// Longer than any answer of a healthy API; a page that waits for ever says nothing.
const PATIENCE_MS = 15_000;

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status; // 0: no answer at all
  }
}

export const token = () => sessionStorage.getItem(KEY);
export const forget = () => sessionStorage.removeItem(KEY);
export const remember = (value) => sessionStorage.setItem(KEY, value);

export const get = (path, with_ = token()) => call("GET", path, with_);
export const post = (path, content) => call("POST", path, token(), content);

async function call(method, path, bearer, content) {
  const headers = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const sent = content === undefined ? {} : { body: JSON.stringify(content) };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  let answer, body;
  try {
    answer = await fetch(path, { ...sent, method, headers, signal, cache: "no-store", redirect: "error" });
    body = await answer.json();
  } catch (error) {
    throw new ApiError(answer?.status ?? 0, answer ? `no JSON came back (${answer.status})` : error.message);
  }
  if (!answer.ok) {
    throw new ApiError(answer.status, told(body));
  }
  return body;
}

/** Why something was refused: each field with its mend, where the answer has them. */
function told({ detail, problems, more }) {
  if (!problems?.length) return typeof detail === "string" ? detail : JSON.stringify(detail);
  const each = problems.map(({ field, value, mend }) => `${field ? `${field} = ` : ""}${value}: ${mend}`);
  return [detail, ...each, ...(more ? [`and ${more} more`] : [])].join("; ");
}
