// One step at a time: a key pressed meanwhile does nothing. What goes wrong is reported on the page.
export const main = document.getElementById("item");
const trouble = document.getElementById("trouble");
let busy = false;

export const isBusy = () => busy;

export function report(sentence) {
  trouble.hidden = sentence === null;
  trouble.textContent = sentence ?? "";
}

export async function step(work) {
  if (busy) return;
  busy = true;
  main.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    report(error.message);
  } finally {
    busy = false;
    main.removeAttribute("aria-busy");
  }
}
