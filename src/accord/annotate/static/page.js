// The page: an item is asked for, judged by keys or clicks, stored, and only then the next is asked
// for.
import { Choice } from "./choice.js";
import { listenToKeys } from "./keys.js";
import { get, insist, post, randomId } from "./network.js";
import { Outbox } from "./outbox.js";
import { showRest } from "./rest.js";
import { isBusy, main, report, step } from "./steps.js";
import { passes } from "./test.js";

const { passed, adjudicated, lease } = document.body.dataset;
const status = document.getElementById("status");
const outbox = new Outbox("pending", "api/answer", {
  report,
  onRefused: (_, error) => report(error.status === 409 ? error.message : `An answer was not stored: ${error.message}`),
});
const RENEWAL = Math.min(60, Number(lease) / 3) * 1000; // milliseconds between signs of life

let choice = null; // of the item that is shown

function show(shown) {
  choice?.end();
  main.innerHTML = shown.html; // escaped and sanitised by the server; scripts in it would not run
  choice = shown.item === null ? null : new Choice(shown, main, { strength: main.querySelector(".strengths") !== null, onChange: () => {} });
  window.scrollTo(0, 0);
  document.getElementById("question")?.focus({ preventScroll: true });
}

async function showNext() {
  const body = adjudicated ? { adjudicate: Number(adjudicated) } : {};
  const shown = await insist(() => post("api/next", body), (sentence) => sentence && report(sentence));
  show(shown);
  showProgress(shown.progress);
}

function showProgress({ done, remaining, seconds }) {
  const minutes = seconds === null ? null : Math.ceil((seconds * remaining) / 60);
  const time = minutes === null || remaining === 0 ? "" : ` · about ${minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`}`;
  document.getElementById("done").textContent = `${done} done · ${remaining} left${time}`;
  Object.assign(document.getElementById("progress"), { value: done, max: Math.max(1, done + remaining) });
}

function store(action, reason = null) {
  if (!choice || (action === "vote" && !choice.isComplete)) return;
  return step(async () => {
    outbox.add(randomId(), { ...choice.answer(action, reason), adjudicates: Boolean(adjudicated) });
    report(null);
    const { taken: stored } = await outbox.send();
    if (adjudicated && stored) return void location.assign("owner");
    choice.end();
    choice = null;
    await showNext();
    if (stored) status.textContent = "Stored. Next item.";
  });
}

function setView(name) {
  const showsRaw = name === "raw";
  const showsDifference = name === "difference";
  for (const each of main.querySelectorAll(".text.rendered")) each.hidden = showsRaw;
  for (const each of main.querySelectorAll(".text.raw")) each.hidden = !showsRaw;
  for (const card of showsDifference ? main.querySelectorAll(".response") : []) {
    card.querySelector(".rendered").hidden = true;
  }
  for (const each of main.querySelectorAll(".text.difference")) each.hidden = !showsDifference;
  for (const what of ["raw", "difference"]) {
    main.querySelector(`[data-do=${what}]`)?.setAttribute("aria-pressed", String(name === what));
  }
}

const isPressed = (what) => main.querySelector(`[data-do=${what}]`)?.getAttribute("aria-pressed") === "true";

async function showDifference() {
  if (isPressed("difference")) return setView("rendered");
  const { html } = await get(`api/difference?item=${choice.shown.item}`);
  main.querySelectorAll(".text.difference").forEach((each, index) => {
    if (html[index] === null) each.textContent = "This text is too long to be compared word by word.";
    else each.innerHTML = html[index]; // escaped by the server
  });
  choice.sawDifference = true;
  setView("difference");
  status.textContent = "Differences are marked.";
}

function openDialog(id) {
  const dialog = document.getElementById(id);
  if (!dialog.open) dialog.showModal();
}

const actions = {
  help: () => openDialog("help"),
  skip: () => choice && openDialog("skip"),
  flag: () => choice && openDialog("flag"),
  "send-flag": () => {
    const text = document.getElementById("flag-text");
    document.getElementById("flag").close();
    store("flag", text.value || null);
    text.value = "";
  },
  undo: () => !adjudicated && step(async () => {
    show(await post("api/undo", { before: choice?.shown.closed ?? null }));
    status.textContent = "Your earlier answer, to be changed.";
  }),
  newest: () => step(showNext),
  raw: () => {
    if (!choice) return;
    const raw = !isPressed("raw");
    if (raw) choice.view = "raw";
    setView(raw ? "raw" : "rendered");
  },
  difference: () => choice && choice.shown.size > 1 && step(showDifference),
  unfold: () => {
    const folded = document.getElementById("folded");
    if (folded) folded.open = !folded.open;
  },
  comment: () => main.querySelector("#comment")?.focus(),
  tags: () => {
    const tags = document.getElementById("tags");
    if (!tags) return;
    tags.open = true;
    tags.querySelector("input").focus();
  },
  guidelines: () => {
    const aside = document.getElementById("guidelines");
    if (!aside) return;
    aside.hidden = !aside.hidden;
    document.querySelector("[data-do=guidelines]").setAttribute("aria-expanded", String(!aside.hidden));
  },
  leave: () => post("api/leave", {}).then(() => location.reload(), (error) => report(error.message)),
  save: () => store("vote"),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) actions[button.dataset.do]();
  else if (button.dataset.rest) showRest(button, choice.shown.item).catch((error) => report(error.message));
  else if (button.dataset.strength) {
    choice.setStrength(Number(button.dataset.strength));
  } else if (button.dataset.reason !== undefined) {
    document.getElementById("skip").close();
    store("skip", button.dataset.reason || null);
  }
});

main.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.id !== "test") return store("vote");
  step(async () => {
    if (await passes(event.target)) await showNext();
  });
});

listenToKeys({ choice: () => choice, actions, store });

setInterval(async () => {
  if (!choice || document.hidden || isBusy() || choice.shown.revises !== null || adjudicated) return;
  try {
    await post("api/renew", { item: choice.shown.item });
  } catch {
    // The answer itself will say what is wrong.
  }
}, RENEWAL);

step(async () => {
  if (passed !== "yes") return;
  await outbox.send();
  await showNext();
});
