// Requests to the server, and answers that are not lost when it is away.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// A random id; `crypto.randomUUID` exists on secure pages only.
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A tab's memory, or the browser's. A browser may refuse either, or be full: then this page remembers.
export function memory(storage, prefix) {
  const here = new Map();
  const safely = (work) => {
    try {
      return work(storage());
    } catch {
      return null;
    }
  };
  return {
    get: (key) => here.get(key) ?? safely((s) => JSON.parse(s.getItem(prefix + key))),
    set: (key, value) => {
      here.set(key, value);
      safely((s) => s.setItem(prefix + key, JSON.stringify(value)));
    },
    remove: (key) => {
      here.delete(key);
      safely((s) => s.removeItem(prefix + key));
    },
    keys: () => {
      const stored = safely((s) => Object.keys(s).filter((key) => key.startsWith(prefix))) ?? [];
      return [...new Set([...here.keys(), ...stored.map((key) => key.slice(prefix.length))])];
    },
  };
}

const tab = memory(() => sessionStorage, "accord:");
const session = tab.get("session") ?? randomId();
tab.set("session", session);

export async function get(path) {
  return read(await fetch(path, { credentials: "same-origin" }));
}

export async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-Accord-Session": session };
  return read(await fetch(path, { method: "POST", headers, body: JSON.stringify(body), credentials: "same-origin" }));
}

async function read(response) {
  const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
  if (response.ok) return isJson ? response.json() : response.text();
  const problem = isJson ? (await response.json()).error : `The server answered ${response.status}.`;
  throw new Refusal(response.status, problem);
}

// Sends until the server answers. `report` gets a sentence while it does not, and null afterwards.
export async function insist(send, report) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      const answer = await send();
      report(null);
      return answer;
    } catch (error) {
      if (error instanceof Refusal && error.status < 500) {
        report(null);
        throw error;
      }
      report("The server does not answer. Your answer is stored in this browser and is sent as soon as it does.");
      await new Promise((resume) => setTimeout(resume, wait));
    }
  }
}
