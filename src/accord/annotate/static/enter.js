// Exchanges an invitation for a session. The token stands behind the `#` of the link, which browsers
// send to no server; it leaves the address at once.
import { post } from "./network.js";

const message = document.getElementById("message");

async function enter(text) {
  const token = text.trim().split("#").pop();
  try {
    await post("api/enter", { token });
    location.replace(location.pathname.replace(/(enter|owner)$/, ""));
  } catch (error) {
    message.textContent = error.message;
    message.classList.add("warning");
  }
}

document.getElementById("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(document.getElementById("token").value);
});

if (location.hash.length > 1) {
  const token = location.hash;
  history.replaceState(null, "", location.pathname);
  enter(token);
}
