// The HTTP API, relative to where the page lies, so that any proxy may put a prefix before it.

const PATIENCE = 20000; // ms

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const lockedOut = new Set();
export const onLockedOut = (tell) => lockedOut.add(tell); // called when the password is asked for again

export function address(path, query = {}) {
  const url = new URL(`api/${path}`, document.baseURI);
  url.hash = "";
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") url.searchParams.append(key, one);
    }
  }
  return url;
}

async function reason(response) {
  try {
    const { detail } = await response.json();
    if (Array.isArray(detail)) return detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ");
    return detail ?? response.statusText;
  } catch {
    return response.statusText || `HTTP ${response.status}`;
  }
}

// The whole answer. `body`: an object goes as JSON, FormData and Blobs as they are. Throws ApiError with what is wrong.
export async function request(method, path, { query, body, signal, patience = PATIENCE } = {}) {
  const headers = {};
  if (body !== undefined && !(body instanceof FormData) && !(body instanceof Blob)) {
    headers["content-type"] = "application/json";
    body = JSON.stringify(body);
  }
  const limits = [AbortSignal.timeout(patience), ...(signal ? [signal] : [])];
  let response;
  try {
    response = await fetch(address(path, query), { method, body, headers, signal: AbortSignal.any(limits) });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, error.name === "TimeoutError" ? "Kikimimi does not answer" : "Kikimimi cannot be reached");
  }
  if (!response.ok) {
    if (response.status === 401 && !path.startsWith("session")) lockedOut.forEach((tell) => tell());
    throw new ApiError(response.status, await reason(response));
  }
  return response;
}

async function parsed(response) {
  if (response.status === 204) return null;
  const type = response.headers.get("content-type") ?? "";
  return type.includes("json") ? response.json() : response.text();
}

export const api = {
  get: async (path, query, more) => parsed(await request("GET", path, { query, ...more })),
  post: async (path, body, more) => parsed(await request("POST", path, { body, ...more })),
  put: async (path, body, more) => parsed(await request("PUT", path, { body, ...more })),
  patch: async (path, body, more) => parsed(await request("PATCH", path, { body, ...more })),
  delete: async (path, query, more) => parsed(await request("DELETE", path, { query, ...more })),
};

// Answers that come piece by piece (text/event-stream): calls tell(event, data) for each. AbortController stops it.
export async function stream(method, path, options, tell) {
  const response = await request(method, path, { patience: 600000, ...options });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/);
      const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
      const data = field("data").join("\n");
      if (data) tell(field("event")[0] ?? "message", JSON.parse(data));
    }
  }
}
