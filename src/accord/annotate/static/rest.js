// The whole of a long text, of which the page has the first part.
import { get } from "./network.js";

export async function showRest(button, item) {
  const text = await get(`api/rest?item=${item}&${button.dataset.rest}`);
  for (const each of button.parentElement.querySelectorAll(":scope > .text:not(.difference)")) each.textContent = text;
  for (const each of button.parentElement.querySelectorAll(":scope > .rendered")) each.classList.add("whole");
  button.remove();
}
