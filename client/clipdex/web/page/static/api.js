// Requests to the server of this page, and its errors in words.

/** An error that the server answers, or the reason why nothing answers. */
export class Problem extends Error {
  constructor(status, detail, kind = "", retry_after = 0) {
    super(detail);
    Object.assign(this, { status, kind, retry_after });
  }

  /** Why it fails, for a heading. */
  get title() {
    if (!this.status) return "The server does not answer";
    if (this.status === 401) return "Please sign in again";
    if (this.status === 403) return "Not allowed";
    if (this.status === 429 || this.kind === "ServerBusy") return "The server is busy";
    if (this.kind === "ServerUnreachable") return "The model server does not answer";
    if (this.status === 503 || this.status === 504) return "The server is busy";
    return this.status >= 500 ? "The server has a problem" : "The search cannot be used";
  }
}

async function problem(response) {
  const after = Number(response.headers.get("Retry-After")) || 0;
  try {
    const body = await response.json();
    return new Problem(response.status, body.detail, String(body.type).split(":").pop(), after);
  } catch {
    return new Problem(response.status, `The server answered with status ${response.status}.`, "", after);
  }
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

/**
 * Ask the server. A busy one is asked `times` times; `waiting` is told of each.
 * @returns the JSON of the answer.
 * @throws {Problem} or, if aborted, an AbortError.
 */
export async function ask(path, { query = {}, json, form, signal, waiting, times = 3 } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = new URLSearchParams(given);
  const url = document.body.dataset.root + (given.length ? `${path}?${search}` : path);
  const body = form ?? (json && JSON.stringify(json));
  const headers = json && !form ? { "Content-Type": "application/json" } : {};
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(url, { method: body ? "POST" : "GET", body, headers, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, "Check that clipdex web is still running and that the network is up, then try again.");
    }
    if (response.ok) return response.json();
    const found = await problem(response);
    // The server has already waited for its model server.
    const busy = (found.status === 503 && found.kind !== "ServerUnreachable") || found.status === 429;
    if (!busy || attempt === times) throw found;
    waiting?.(found);
    await pause(Math.min(found.retry_after || 1, 5), signal);
  }
}
