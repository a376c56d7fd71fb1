// The page of a red team: a person talks with a model, and says whether it broke and why. A message
// and a verdict are noted in the browser before they are sent, and stored before what follows shows.
import { insist, memory, post, randomId } from "./network.js";
import { Outbox } from "./outbox.js";
import { showRest } from "./rest.js";
import { main, report, step } from "./steps.js";
import { passes } from "./test.js";

const { person, passed } = document.body.dataset;
const status = document.getElementById("status");
const drafts = memory(() => sessionStorage, `accord:chat:${person}:`);
const NOTHING = { text: "", outcome: null, strength: null, turn: null, comment: "", tags: [] };

let shown = null; // what the server said of the conversation
let state = NOTHING; // what the person has written and chosen
let view = "rendered";
let unsent = null; // a message that was not taken, which comes back into the box

const messages = new Outbox("said", "api/say", {
  report,
  onRefused: (body, error) => {
    unsent = body.text;
    report(error.message);
  },
});
const verdicts = new Outbox("verdict", "api/answer", {
  report,
  onRefused: (_, error) => report(`The verdict was not stored: ${error.message}`),
});

const one = (selector) => main.querySelector(selector);

function show(next, focused = "#message") {
  shown = next;
  main.innerHTML = shown.html; // escaped and sanitised by the server; scripts in it would not run
  state = { ...NOTHING, ...given(shown.earlier), ...(drafts.get(shown.item) ?? {}) };
  view = "rendered";
  if (unsent !== null && !state.text && one("#message")) {
    update({ text: unsent });
    unsent = null;
  }
  if (one("#message")) one("#message").value = state.text;
  one("#comment").value = state.comment;
  for (const box of main.querySelectorAll("[name=tag]")) box.checked = state.tags.includes(box.value);
  if (state.turn !== null && one(`[name=turn][value="${state.turn}"]`)) one(`[name=turn][value="${state.turn}"]`).checked = true;
  update({});
  const { done } = shown.progress;
  document.getElementById("done").textContent = `${done} conversation${done === 1 ? "" : "s"} done`;
  document.getElementById("progress").hidden = true;
  (one(focused) ?? document.getElementById("question")).focus({ preventScroll: true });
  one(".turn:last-child")?.scrollIntoView({ block: "nearest" });
}

// An earlier verdict that is being changed.
function given(earlier) {
  if (!earlier) return {};
  const { outcome, strength, turn, comment, tags } = earlier;
  return { outcome, strength, turn, comment: comment ?? "", tags: tags ?? [] };
}

function update(change) {
  state = { ...state, ...change };
  if (change.outcome === "held") state.strength = null;
  if (Object.keys(change).length > 0) drafts.set(shown.item, state);
  for (const button of main.querySelectorAll("[data-outcome]")) {
    button.setAttribute("aria-pressed", String(button.dataset.outcome === state.outcome));
  }
  one(".strengths").hidden = state.outcome !== "broke";
  for (const button of main.querySelectorAll("[data-strength]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.strength) === state.strength));
  }
  one("#verdict [type=submit]").disabled = !isComplete();
}

function isComplete() {
  const says = state.comment.trim() !== "" || state.tags.length > 0;
  return state.outcome === "held" || (state.outcome === "broke" && state.strength !== null && says);
}

async function showNext() {
  show(await insist(() => post("api/next", {}), (sentence) => sentence && report(sentence)));
}

function say() {
  if (!shown || shown.revises !== null || !state.text.trim()) return;
  return step(async () => {
    const message = { item: shown.item, after: shown.answers, text: state.text };
    messages.add(randomId(), message);
    update({ text: "" });
    one("#message").value = "";
    one("#waiting").hidden = false;
    report(null);
    status.textContent = "The model is writing.";
    await sendMessages();
  });
}

async function sendMessages() {
  const { answers, taken } = await messages.send();
  if (answers.length > 0) {
    show(answers.at(-1));
    status.textContent = "The model has answered.";
  } else if (!taken) await showNext();
}

function save(action) {
  if (!shown || shown.answers === 0) return;
  if (action === "vote" && !isComplete()) return;
  return step(async () => {
    const { outcome, strength, comment, tags } = state;
    const turn = Number(one("[name=turn]:checked").value);
    const content = { comment: comment || null, tags, view, revises: shown.revises };
    const vote = action === "vote" ? { outcome, strength, turn } : {};
    verdicts.add(randomId(), { item: shown.item, action, ...content, ...vote });
    report(null);
    const { taken } = await verdicts.send();
    drafts.remove(shown.item);
    await showNext();
    if (taken) status.textContent = "Stored. A new conversation.";
  });
}

function showRaw() {
  view = one("[data-do=raw]").getAttribute("aria-pressed") === "true" ? "rendered" : "raw";
  for (const each of main.querySelectorAll(".text.rendered")) each.hidden = view === "raw";
  for (const each of main.querySelectorAll(".text.raw")) each.hidden = view !== "raw";
  one("[data-do=raw]").setAttribute("aria-pressed", String(view === "raw"));
}

const actions = {
  help: () => document.getElementById("help").showModal(),
  undo: () => step(async () => {
    show(await post("api/undo", { before: shown?.closed ?? null }), "#question");
    status.textContent = "Your earlier verdict, to be changed.";
  }),
  newest: () => step(showNext),
  raw: showRaw,
  skip: () => (shown.revises === null ? save("skip") : undefined),
  message: () => one("#message")?.focus(),
  comment: () => one("#comment").focus(),
  tags: () => one("[name=tag]")?.focus(),
  turn: () => one("[name=turn]:checked")?.focus(),
  broke: () => update({ outcome: "broke" }),
  held: () => update({ outcome: "held" }),
  guidelines: () => {
    const aside = document.getElementById("guidelines");
    if (!aside) return;
    aside.hidden = !aside.hidden;
    document.querySelector("[data-do=guidelines]").setAttribute("aria-expanded", String(!aside.hidden));
  },
  leave: () => post("api/leave", {}).then(() => location.reload(), (error) => report(error.message)),
};
const KEYS = { m: "message", b: "broke", h: "held", c: "comment", t: "tags", a: "turn", r: "raw", n: "skip", u: "undo", g: "guidelines", "?": "help" };
const NEEDS_ANSWER = ["broke", "held", "comment", "tags", "turn", "skip"];

function leave(target) {
  target.blur();
  document.getElementById("question")?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches("textarea, input[type=password]")) {
    if (key === "Escape") leave(target);
    else if (key === "Enter" && target.id === "message" && !event.shiftKey) say();
    else if (key === "Enter" && target.id === "comment" && (event.ctrlKey || event.metaKey)) save("vote");
    else return;
    return event.preventDefault();
  }
  if (event.ctrlKey || event.metaKey || event.repeat || !shown) return;
  if (key === "Escape") {
    if (target.matches("input")) leave(target);
    else if (shown.revises !== null) actions.newest();
  } else if (key in KEYS) {
    if (NEEDS_ANSWER.includes(KEYS[key]) && shown.answers === 0) return;
    actions[KEYS[key]]();
  } else if (["1", "2", "3"].includes(key) && state.outcome === "broke") update({ strength: Number(key) });
  else if (key === "Enter" && !(target.matches("button, a") && target.matches(":focus-visible"))) save("vote");
  else return;
  event.preventDefault();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { rest, outcome, strength } = button.dataset;
  if (button.dataset.do) actions[button.dataset.do]();
  else if (rest) showRest(button, shown.item).catch((error) => report(error.message));
  else if (outcome) update({ outcome });
  else if (strength) update({ strength: Number(strength) });
});

main.addEventListener("input", ({ target }) => {
  if (target.id === "message") update({ text: target.value });
  else if (target.id === "comment") update({ comment: target.value });
  else if (target.name === "turn") update({ turn: Number(target.value) });
  else if (target.name === "tag") update({ tags: [...main.querySelectorAll("[name=tag]:checked")].map((each) => each.value) });
});

main.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.id === "say") say();
  else if (event.target.id === "verdict") save("vote");
  else step(async () => {
    if (await passes(event.target)) await showNext();
  });
});

step(async () => {
  if (passed !== "yes") return;
  await verdicts.send();
  const { answers } = await messages.send();
  if (answers.length > 0) show(answers.at(-1));
  else await showNext();
});
