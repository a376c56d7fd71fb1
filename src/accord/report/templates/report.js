"use strict";
// Shows the prompts and answers that hold all words of the search, of the kind that is chosen.
const search = document.getElementById("search");
if (search) {
  const [text, kind, shown] = ["text", "kind", "shown"].map((n) => search.querySelector("." + n));
  const examples = [...document.querySelectorAll(".example")].map((element) => ({
    element,
    kind: element.dataset.kind,
    content: element.textContent.toLowerCase(),
  }));
  const update = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { element, kind: own, content } of examples) {
      const matches =
        (!kind || !kind.value || own === kind.value) && words.every((w) => content.includes(w));
      element.hidden = !matches;
      count += matches;
    }
    shown.textContent = `${count} of ${examples.length} prompts`;
  };
  text.addEventListener("input", update);
  if (kind) kind.addEventListener("change", update);
  search.hidden = false;
  update();
}
