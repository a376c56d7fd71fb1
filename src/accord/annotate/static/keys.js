// The keys. Those that write are left alone, and those of a button or list that has the focus.
const OUTCOMES = {
  pairs: { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", ArrowDown: "both_bad" },
  labels: { ArrowUp: "good", ArrowDown: "bad" },
};
const ACTIONS = { s: "skip", f: "flag", u: "undo", d: "difference", r: "raw", e: "unfold", c: "comment", t: "tags", g: "guidelines", "?": "help" };

export function listenToKeys({ choice, actions, store }) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog) return inDialog(event, dialog, actions);
    const { target, key } = event;
    if (target.matches("textarea, input:not([type=checkbox]):not([type=radio])")) {
      if (key === "Escape") leave(target);
      else if (key === "Enter" && (event.ctrlKey || event.metaKey)) store("vote");
      else return;
      return event.preventDefault();
    }
    if (event.ctrlKey || event.metaKey) return;
    if (pressed(event, choice(), actions, store)) event.preventDefault();
  });
}

// Whether the key did something.
function pressed({ key, target, repeat }, choice, actions, store) {
  if (target.matches("select, summary") && ["ArrowUp", "ArrowDown", "Enter", " "].includes(key)) return false;
  if (key === "Escape") {
    if (target.matches("input")) leave(target);
    else if (choice && choice.shown.revises !== null) actions.newest();
    return true;
  }
  if (repeat) return key.startsWith("Arrow") && choice !== null; // held down: neither a choice nor a scroll
  if (key in ACTIONS) {
    actions[ACTIONS[key]]();
    return true;
  }
  if (!choice) return false;
  if (key === "Enter") {
    // A button that was reached by Tab is pressed; one that was clicked no longer matters.
    if (target.matches("button, a") && target.matches(":focus-visible")) return false;
    store("vote");
    return true;
  }
  return choice.shown.task === "rankings" ? ranking(key, choice) : preference(key, choice, store);
}

function preference(key, choice, store) {
  const outcome = OUTCOMES[choice.shown.task][key];
  if (outcome) {
    if (choice.state.outcome === outcome) store("vote");
    else choice.choose(outcome);
    return true;
  }
  if (["1", "2", "3"].includes(key) && choice.mayHaveStrength) {
    choice.setStrength(Number(key));
    store("vote");
    return true;
  }
  return false;
}

function ranking(key, choice) {
  const rank = Number(key);
  if (key.length === 1 && rank >= 1 && rank <= choice.shown.size) {
    choice.rank(choice.focused, rank);
    choice.advance();
  } else if (key === "ArrowLeft" || key === "ArrowRight") {
    choice.focus(choice.focused + (key === "ArrowLeft" ? -1 : 1));
  } else if (key === "ArrowUp" || key === "ArrowDown") {
    choice.shift(key === "ArrowUp" ? -1 : 1);
  } else if (key === "Backspace") {
    choice.rank(choice.focused, null);
  } else {
    return false;
  }
  return true;
}

function inDialog(event, dialog, actions) {
  if (dialog.id === "skip" && !event.ctrlKey && !event.metaKey) {
    const button = dialog.querySelectorAll("[data-reason]")[Number(event.key) - 1];
    if (!button) return;
    event.preventDefault();
    button.click();
  } else if (dialog.id === "flag" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    actions["send-flag"]();
  } else if (dialog.id === "help" && event.key === "?") {
    event.preventDefault();
    dialog.close();
  }
}

function leave(target) {
  target.blur();
  document.getElementById("question")?.focus({ preventScroll: true });
}
