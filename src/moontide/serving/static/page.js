// Dropping a picture, its preview, and results without a reload. Without this file the form still works.
"use strict";

const form = document.getElementById("search");
const words = document.getElementById("q");
const file = document.getElementById("image");
const box = document.getElementById("box");
const preview = document.getElementById("preview");
const previewImage = document.getElementById("preview-image");
const results = document.getElementById("results");
const spoken = document.getElementById("status"); // read out by screen readers
const like = document.getElementById("like"); // id of a stored picture to search with
const waiting = document.getElementById("waiting");
const maxBytes = Number(form.dataset.maxBytes);
const SLOW_MS = 150; // shorter waits show no placeholder: it would only flicker
const GIVE_UP_MS = 30000;

let running = null;

function say(text) {
  const alert = document.createElement("div");
  alert.className = "alert";
  alert.setAttribute("role", "alert");
  const lead = document.createElement("strong");
  lead.textContent = "That did not work.";
  alert.append(lead, " " + text);
  spoken.textContent = "";
  results.replaceChildren(alert);
}

function showPreview(address) {
  if (previewImage.src.startsWith("blob:")) URL.revokeObjectURL(previewImage.src);
  if (address) previewImage.src = address;
  else previewImage.removeAttribute("src");
  preview.hidden = !address;
  words.placeholder = address ? "Add words" : "Search, or drop a picture";
}

function removePicture() {
  file.value = "";
  like.value = "";
  showPreview("");
}

// The form sends one file, even if several were dropped.
function giveFile(files) {
  const one = new DataTransfer();
  one.items.add(files[0]);
  file.files = one.files;
  takePicture(files[0]);
}

function takePicture(picked) {
  if (!/^image\/(jpeg|png|webp)$/.test(picked.type)) {
    removePicture();
    return say("Give a JPEG, PNG or WebP picture.");
  }
  if (picked.size > maxBytes) {
    removePicture();
    return say(`The picture is larger than ${Math.round(maxBytes / 1048576)} MB: shrink it.`);
  }
  like.value = "";
  showPreview(URL.createObjectURL(picked));
  search();
}

function chosenShopper() {
  const chosen = form.querySelector("input[name=shopper]:checked");
  return chosen ? chosen.value : "";
}

function isAsked() {
  return words.value.trim() !== "" || file.files.length > 0 || like.value !== "";
}

async function search() {
  if (!isAsked()) return words.focus();
  if (running) running.abort();
  const mine = (running = new AbortController());
  const placeholder = setTimeout(() => results.replaceChildren(waiting.content.cloneNode(true)), SLOW_MS);
  const tooLong = setTimeout(() => mine.abort("late"), GIVE_UP_MS);
  results.setAttribute("aria-busy", "true");
  const hasFile = file.files.length > 0;
  const address = "/?" + new URLSearchParams(
    Object.entries({ q: words.value.trim(), like: like.value, shopper: chosenShopper() }).filter(([, value]) => value));
  const options = { headers: { "x-fragment": "1" }, signal: mine.signal };
  if (hasFile) Object.assign(options, { method: "POST", body: new FormData(form) });
  try {
    const response = await fetch(hasFile ? "/" : address, options);
    const html = await response.text();
    if (!(response.headers.get("content-type") || "").startsWith("text/html")) {
      throw new Error(JSON.parse(html).error);
    }
    clearTimeout(placeholder);
    results.innerHTML = html; // made by our own server, every value in it escaped
    const place = hasFile ? "/" : address;
    if (place !== location.pathname + location.search) history.pushState(null, "", place);
    const found = results.querySelector(".summary");
    spoken.textContent = found ? found.innerText : "";
    document.title = (words.value.trim() ? words.value.trim() + " – " : "") + "moontide";
  } catch (error) {
    clearTimeout(placeholder);
    if (mine.signal.aborted && mine.signal.reason !== "late") return; // a newer search took over
    if (mine.signal.aborted) say("The answer took too long: try again.");
    else if (error instanceof TypeError) say("The server cannot be reached: is it still running?");
    else say(error.message[0].toUpperCase() + error.message.slice(1) + ".");
  } finally {
    clearTimeout(tooLong);
    if (running === mine) {
      running = null;
      results.removeAttribute("aria-busy");
    }
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "shopper" && isAsked()) search();
});
file.addEventListener("change", () => (file.files.length ? takePicture(file.files[0]) : removePicture()));
document.getElementById("remove").addEventListener("click", () => {
  removePicture();
  words.focus();
  if (isAsked()) search();
});

let depth = 0; // dragenter and dragleave also come from children
const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
window.addEventListener("dragenter", (event) => {
  if (!hasFiles(event)) return;
  depth += 1;
  box.classList.add("dropping");
});
window.addEventListener("dragleave", (event) => {
  if (!hasFiles(event)) return;
  depth = Math.max(0, depth - 1);
  if (!depth) box.classList.remove("dropping");
});
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  box.classList.remove("dropping");
  if (event.dataTransfer.files.length) giveFile(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => {
  const pasted = event.clipboardData && event.clipboardData.files;
  if (pasted && pasted.length) giveFile(pasted);
});
window.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.matches("input, textarea")) {
    event.preventDefault();
    words.select();
  }
});
window.addEventListener("popstate", () => location.reload());

const chosen = form.querySelector("input[name=shopper]:checked");
if (chosen && chosen.value) chosen.parentElement.scrollIntoView({ block: "nearest", inline: "center" });
