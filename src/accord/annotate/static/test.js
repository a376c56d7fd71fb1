// The test on the guidelines.
import { post } from "./network.js";

// Whether all its answers are right; those that are not are marked.
export async function passes(form) {
  const data = new FormData(form);
  const answers = [...form.querySelectorAll("fieldset")].map((_, index) => Number(data.get(`question-${index + 1}`)));
  const { wrong } = await post("api/test", { answers });
  for (const line of form.querySelectorAll(".wrong")) line.hidden = !wrong.includes(Number(line.id.split("-")[1]));
  if (wrong.length > 0) form.querySelector(`[name=question-${wrong[0]}]`).focus();
  return wrong.length === 0;
}
