// What is on its way to the server. It is noted in the browser before it is sent, under a key of its
// own, and sent until the server answers; the server takes a key once.
import { insist, memory, post } from "./network.js";

export class Outbox {
  // `onRefused` is called with what the server did not take, and why.
  constructor(name, path, { report, onRefused }) {
    const { person } = document.body.dataset;
    this.pending = memory(() => localStorage, `accord:${location.pathname}:${person}:${name}:`);
    Object.assign(this, { path, report, onRefused });
  }

  add(key, body) {
    this.pending.set(key, { ...body, key });
  }

  get isEmpty() {
    return this.pending.keys().length === 0;
  }

  // Sends all that was noted: the server's answers, and whether all of it was taken.
  async send() {
    const answers = [];
    let taken = true;
    for (const key of this.pending.keys()) {
      const body = this.pending.get(key);
      try {
        answers.push(await insist(() => post(this.path, body), this.report));
      } catch (error) {
        if (error.status === 401) throw error; // it stays until someone has entered
        taken = false;
        this.onRefused(body, error);
      }
      this.pending.remove(key);
    }
    return { answers, taken };
  }
}
