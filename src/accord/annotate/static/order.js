// A list whose entries can be dragged, by mouse, pen or finger.
export function sortable(list, onDrop) {
  let dragged = null;
  list.addEventListener("pointerdown", (event) => {
    dragged = event.target.closest("li");
    if (!dragged) return;
    event.preventDefault();
    list.setPointerCapture(event.pointerId);
    dragged.classList.add("dragged");
  });
  list.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    const over = document.elementFromPoint(event.clientX, event.clientY)?.closest("li");
    if (!over || over === dragged || over.parentElement !== list) return;
    const box = over.getBoundingClientRect();
    const after = event.clientX > box.left + box.width / 2;
    list.insertBefore(dragged, after ? over.nextSibling : over);
  });
  const drop = () => {
    if (!dragged) return;
    dragged.classList.remove("dragged");
    dragged = null;
    onDrop();
  };
  list.addEventListener("pointerup", drop);
  list.addEventListener("pointercancel", drop);
}
