// The answer that is being formed on an item, and its display. What is formed is noted in the tab's
// memory, so that a reload in mid-item loses nothing.
import { memory } from "./network.js";
import { sortable } from "./order.js";

const drafts = memory(() => sessionStorage, "accord:draft:");
const LABELS = { good: 0, bad: 1 };

export class Choice {
  // `shown` is what the server said of the item; `root` the element that holds it.
  constructor(shown, root, { strength, onChange }) {
    this.shown = shown;
    this.root = root;
    this.asksStrength = strength;
    this.onChange = onChange;
    this.focused = 0;
    this.view = "rendered";
    this.sawDifference = false;
    this.started = performance.now();
    const empty = { outcome: null, ranks: Array(shown.size).fill(null), strength: null, comment: "", tags: [], seconds: 0 };
    this.state = { ...empty, ...this.#given(), ...(drafts.get(this.#draft) ?? {}) };
    document.addEventListener("visibilitychange", this.#clock);
    this.#listen();
    this.show();
  }

  get #draft() {
    return draftName(this.shown);
  }

  // An earlier answer that is being changed.
  #given() {
    const earlier = this.shown.earlier;
    if (!earlier) return {};
    const { outcome, strength, comment, tags, action } = earlier;
    const given = { strength, comment: comment ?? "", tags: tags ?? [] };
    if (action !== "vote") return given;
    if (this.shown.task === "labels") return { ...given, outcome: earlier.ranks[0] === 0 ? "good" : "bad" };
    if (this.shown.task === "rankings") return { ...given, ranks: earlier.ranks.map((rank) => rank + 1) };
    return { ...given, outcome };
  }

  #listen() {
    const { root } = this;
    for (const button of root.querySelectorAll("[data-outcome]")) {
      button.addEventListener("click", () => this.choose(button.dataset.outcome));
    }
    for (const select of root.querySelectorAll("[data-rank]")) {
      select.addEventListener("change", () => this.rank(Number(select.dataset.rank), Number(select.value) || null));
    }
    for (const card of root.querySelectorAll(".rankings .response")) {
      card.addEventListener("pointerdown", () => this.focus(Number(card.dataset.position), false));
    }
    root.querySelector("#comment")?.addEventListener("input", (event) => this.#set({ comment: event.target.value }));
    for (const box of root.querySelectorAll("[name=tag]")) {
      box.addEventListener("change", () => {
        const ticked = [...root.querySelectorAll("[name=tag]:checked")].map((each) => each.value);
        this.#set({ tags: ticked });
      });
    }
    const list = root.querySelector(".order");
    if (list) sortable(list, () => this.#takeOrder(list));
  }

  choose(outcome) {
    const strength = outcome === this.state.outcome ? this.state.strength : null;
    this.#set({ outcome, strength });
  }

  setStrength(strength) {
    this.#set({ strength });
  }

  get mayHaveStrength() {
    return this.asksStrength && ["left", "right"].includes(this.state.outcome);
  }

  rank(position, rank) {
    const ranks = [...this.state.ranks];
    ranks[position] = rank;
    this.#set({ ranks });
  }

  // A better (-1) or worse (1) rank for the response in the frame.
  shift(step) {
    const size = this.shown.size;
    const rank = this.state.ranks[this.focused];
    this.rank(this.focused, rank === null ? (step < 0 ? 1 : size) : Math.min(size, Math.max(1, rank + step)));
  }

  focus(position, scroll = true) {
    this.focused = Math.min(this.shown.size - 1, Math.max(0, position));
    this.show();
    if (scroll) this.root.querySelector(".focused")?.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  // To the next response without a rank, if there is one.
  advance() {
    const { ranks } = this.state;
    for (let step = 1; step < ranks.length; step++) {
      const position = (this.focused + step) % ranks.length;
      if (ranks[position] === null) return this.focus(position);
    }
  }

  #takeOrder(list) {
    const ranks = Array(this.shown.size).fill(null);
    [...list.children].forEach((chip, index) => (ranks[Number(chip.dataset.chip)] = index + 1));
    this.#set({ ranks });
  }

  #set(change) {
    Object.assign(this.state, change);
    drafts.set(this.#draft, { ...this.state, seconds: this.seconds });
    this.show();
    this.onChange();
  }

  #clock = () => {
    if (document.hidden) this.state.seconds = this.seconds;
    else this.started = performance.now();
    if (document.hidden) this.started = null;
  };

  // How long the item has been seen; time in which the tab was hidden does not count.
  get seconds() {
    const running = this.started === null ? 0 : (performance.now() - this.started) / 1000;
    return this.state.seconds + running;
  }

  get isComplete() {
    return this.shown.task === "rankings" ? this.state.ranks.every((rank) => rank !== null) : this.state.outcome !== null;
  }

  // What is sent to the server.
  answer(action, reason = null) {
    const { outcome, ranks, strength, comment, tags } = this.state;
    const { item, task, revises } = this.shown;
    const content = { action, reason, comment: comment || null, tags, view: this.view, difference: this.sawDifference };
    const body = { item, ...content, seconds: this.seconds, revises };
    if (action !== "vote") return body;
    if (task === "labels") return { ...body, ranks: [LABELS[outcome]] };
    if (task === "pairs") return { ...body, outcome, strength: this.mayHaveStrength ? strength : null };
    return { ...body, ranks: ranks.map((rank) => ranks.filter((other) => other < rank).length) };
  }

  end() {
    drafts.remove(this.#draft);
    document.removeEventListener("visibilitychange", this.#clock);
  }

  show() {
    const { root, state } = this;
    for (const button of root.querySelectorAll("[data-outcome]")) {
      button.setAttribute("aria-pressed", String(button.dataset.outcome === state.outcome));
    }
    const strengths = root.querySelector(".strengths");
    if (strengths) strengths.hidden = !this.mayHaveStrength;
    for (const button of root.querySelectorAll("[data-strength]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.strength) === state.strength));
    }
    for (const card of root.querySelectorAll(".response")) {
      const position = Number(card.dataset.position);
      const better = { left: 0, right: 1 }[state.outcome];
      card.classList.toggle("chosen", position === better);
      card.classList.toggle("focused", this.shown.task === "rankings" && position === this.focused);
      const select = card.querySelector("[data-rank]");
      if (select) select.value = state.ranks[position] ?? "";
    }
    const list = root.querySelector(".order");
    if (list) this.#showOrder(list);
    const comment = root.querySelector("#comment");
    if (comment && comment.value !== state.comment) comment.value = state.comment;
    for (const box of root.querySelectorAll("[name=tag]")) box.checked = state.tags.includes(box.value);
    const ticked = root.querySelector("#ticked");
    if (ticked) ticked.textContent = state.tags.length ? `(${state.tags.length})` : "";
    const save = root.querySelector(".answer [type=submit]");
    if (save) save.disabled = !this.isComplete;
  }

  #showOrder(list) {
    const rank = (chip) => this.state.ranks[Number(chip.dataset.chip)];
    const chips = [...list.children].sort((a, b) => (rank(a) ?? 99) - (rank(b) ?? 99) || a.dataset.chip - b.dataset.chip);
    chips.forEach((chip, index) => {
      chip.classList.toggle("ranked", rank(chip) !== null);
      chip.classList.toggle("tied", index > 0 && rank(chip) !== null && rank(chip) === rank(chips[index - 1]));
    });
    list.replaceChildren(...chips);
  }
}

function draftName(shown) {
  return `${document.body.dataset.person}:${shown.item}:${shown.revises ?? "new"}`;
}
