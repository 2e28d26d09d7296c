// What the page does: pictures come in, are cut as the controls say, and go out.

import { Refusal, cut, models, remember, remembers } from "./api.js";
import { Viewer } from "./viewer.js";
import { zip } from "./zip.js";

const AT_ONCE = 2; // pictures that are cut at the same time: the server has others to serve
const PATIENCE = 300; // milliseconds without a change before a picture is cut again

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [
    element.id.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()),
    element,
  ]),
);
const viewer = new Viewer(page);
const pictures = [];
let shown = null;
let example = null;
let background = null;
let timer = null;

// ---- Pictures

function add(files) {
  // Browsers do not know every picture's type, HEIC's for one: the server tells of what is none.
  const images = [...files].filter((file) => !file.type || file.type.startsWith("image/"));
  if (!images.length) return tell("That is no picture. JPEG, PNG, WebP and TIFF can be cut.");
  for (const file of images) {
    pictures.push({ file, name: file.name || "picture.png", url: URL.createObjectURL(file), state: "waiting" });
  }
  for (const element of [page.work, page.controls]) element.hidden = false;
  page.welcome.hidden = true;
  show(pictures.at(-images.length));
  next();
}

function remove(picture) {
  picture.abort?.abort();
  for (const url of [picture.url, picture.result?.url]) if (url) URL.revokeObjectURL(url);
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  show(pictures[place] ?? pictures.at(-1) ?? null);
  if (!pictures.length) {
    for (const element of [page.work, page.controls]) element.hidden = true;
    page.welcome.hidden = false;
    page.welcome.querySelector("button").focus();
  }
  next();
}

function show(picture) {
  shown = picture;
  for (const image of [page.before, page.after]) image.removeAttribute("src");
  if (picture) {
    viewer.mark(picture);
    page.before.onload = () => viewer.show(page.before.naturalWidth, page.before.naturalHeight);
    // A format that this browser does not know: the result alone can be seen.
    page.before.onerror = () => {
      page.before.removeAttribute("src");
      viewer.draw();
    };
    page.after.onload = () => {
      if (!page.before.hasAttribute("src")) viewer.show(page.after.naturalWidth, page.after.naturalHeight);
    };
    page.before.src = picture.url;
    page.before.alt = `${picture.name}, before`;
    fill();
  }
  draw();
}

// ---- Cutting

function options(picture) {
  const chosen = {};
  if (page.model.value) chosen.model = page.model.value;
  if (picture.box) chosen.box = picture.box.join();
  if (picture.point) chosen.point = picture.point.join();
  if (picture.label) chosen.what = picture.label;
  const kind = checked("background");
  if (kind === "colour") chosen.over = page.colour.value;
  if (kind === "blur") chosen.over = "blur";
  if (kind === "picture" && background) chosen.over = background;
  if (Number(page.feather.value)) chosen.feather = page.feather.value;
  const grow = Number(page.grow.value);
  if (grow) chosen[grow > 0 ? "grow" : "shrink"] = Math.abs(grow);
  return chosen;
}

function next() {
  draw();
  if (timer) return;
  const running = pictures.filter((picture) => picture.abort).length;
  const waiting = pictures.filter((picture) => picture.state === "waiting" && !picture.abort);
  waiting.sort((a, b) => (b === shown) - (a === shown));
  for (const picture of waiting.slice(0, AT_ONCE - running)) work(picture);
}

async function work(picture) {
  picture.abort = new AbortController();
  picture.state = "sending";
  draw();
  try {
    const blob = await patiently(picture, options(picture));
    if (picture.state === "waiting") return; // something has changed since
    if (picture.result) URL.revokeObjectURL(picture.result.url);
    picture.result = { blob, url: URL.createObjectURL(blob) };
    picture.state = "done";
    if (picture === shown) tell(`${picture.name} is cut.`);
  } catch (error) {
    if (error.name === "AbortError") {
      if (picture.state !== "waiting") picture.state = "cancelled";
    } else if (error.status === 401) {
      picture.state = "waiting";
      await askForToken();
    } else {
      Object.assign(picture, { state: "failed", error: error.message });
    }
  } finally {
    picture.abort = null;
    next();
  }
}

// As often as the server is busy.
async function patiently(picture, chosen) {
  const { signal } = picture.abort;
  const told = (share) => {
    picture.share = share;
    if (picture.state === "sending" && share === null) picture.state = "cutting";
    draw();
  };
  for (;;) {
    try {
      return await cut(picture.file, chosen, { signal, told });
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 429) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 2)));
      signal.throwIfAborted();
    }
  }
}

function again(some = pictures) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    timer = null;
    next();
  }, PATIENCE);
  for (const picture of some) {
    picture.state = "waiting";
    picture.abort?.abort();
  }
  draw();
}

// ---- What is seen

const STATES = {
  waiting: "waiting", sending: "sending", cutting: "cutting", done: "", failed: "failed", cancelled: "cancelled",
};

function draw() {
  const state = shown?.state;
  const busy = ["waiting", "sending", "cutting"].includes(state);
  page.busy.hidden = !busy;
  page.busyText.textContent = { waiting: "Waiting…", sending: "Sending…", cutting: "Cutting…" }[state] ?? "";
  if (state === "sending" && shown.share != null) page.progress.value = shown.share;
  else page.progress.removeAttribute("value");
  page.error.hidden = !["failed", "cancelled"].includes(state);
  page.errorText.textContent = state === "cancelled" ? "Cancelled." : sentence(shown?.error ?? "");
  if (shown?.result && page.after.getAttribute("src") !== shown.result.url) {
    page.after.src = shown.result.url;
    page.after.alt = `${shown.name}, cut out`;
  }
  for (const button of [page.download, page.downloadWebp, page.copy]) button.disabled = state !== "done";
  const done = pictures.filter((picture) => picture.state === "done").length;
  page.downloadAll.hidden = pictures.length < 2;
  page.downloadAll.disabled = !done;
  page.downloadAll.textContent = done && done < pictures.length ? `${done} of ${pictures.length} as ZIP` : "All as ZIP";
  strip();
  viewer.draw();
}

function strip() {
  page.strip.hidden = pictures.length < 2;
  while (page.strip.children.length > pictures.length) page.strip.lastChild.remove();
  pictures.forEach((picture, index) => {
    const entry = page.strip.children[index] ?? page.strip.appendChild(thumbnail());
    const [button] = entry.children;
    const [image, state] = button.children;
    if (image.getAttribute("src") !== picture.url) image.src = picture.url;
    state.textContent = STATES[picture.state];
    button.className = picture.state;
    button.setAttribute("aria-label", `${picture.name}, ${STATES[picture.state] || "cut"}`);
    button.setAttribute("aria-current", String(picture === shown));
    button.onclick = () => show(picture);
  });
}

function thumbnail() {
  const entry = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.append(document.createElement("img"), document.createElement("span"));
  button.firstChild.alt = "";
  button.firstChild.onerror = () => (button.firstChild.hidden = true);
  button.lastChild.className = "state";
  entry.append(button);
  return entry;
}

// The fields beside the picture, as they are for this one.
function fill() {
  const { box, point, label } = shown;
  const tool = box ? "box" : point ? "point" : label ? "label" : viewer.tool;
  document.querySelector(`[name="subject"][value="${tool}"]`).checked = true;
  choose(tool);
  [page.x0, page.y0, page.x1, page.y1].forEach((field, index) => (field.value = box?.[index] ?? ""));
  [page.px, page.py].forEach((field, index) => (field.value = point?.[index] ?? ""));
  page.label.value = label ?? "";
}

function choose(tool) {
  viewer.tool = page.stage.dataset.tool = tool;
  for (const name of ["box", "point", "label"]) page[`${name}Fields`].hidden = tool !== name;
}

function tell(line) {
  page.told.textContent = line;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (page.told.textContent = ""), 4000);
}

const sentence = (line) => line.charAt(0).toUpperCase() + line.slice(1) + (/[.?!]$/.test(line) ? "" : ".");
const checked = (name) => document.querySelector(`[name="${name}"]:checked`).value;

// ---- Out

const stem = (name) => name.replace(/\.[^.]*$/, "");

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveWebp() {
  const { name, result } = shown;
  page.downloadWebp.disabled = true;
  try {
    const told = () => {};
    const blob = await cut(shown.file, { ...options(shown), format: "webp" }, { signal: new AbortController().signal, told });
    save(blob, `${stem(name)}.cut.webp`);
    result.taken = true;
  } catch (error) {
    tell(sentence(error.message));
  } finally {
    draw();
  }
}

async function copy() {
  const { result } = shown;
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": result.blob })]);
    result.taken = true;
    tell("Copied.");
  } catch {
    tell("This browser does not let pages copy pictures: download it instead.");
  }
}

async function saveAll() {
  const names = new Set();
  const files = pictures
    .filter((picture) => picture.state === "done")
    .map((picture) => {
      const base = stem(picture.name);
      let name = base;
      for (let count = 2; names.has(name); count++) name = `${base}-${count}`;
      names.add(name);
      picture.result.taken = true;
      return { name: `${name}.cut.png`, blob: picture.result.blob };
    });
  save(await zip(files), "decoupe.zip");
}

// ---- The camera, and the token

async function openCamera() {
  try {
    page.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return tell("The camera cannot be used: allow it in the browser's settings.");
  }
  page.cameraDialog.showModal();
}

function closeCamera() {
  for (const track of page.video.srcObject?.getTracks() ?? []) track.stop();
  page.video.srcObject = null;
  page.cameraDialog.close();
}

function shoot() {
  const canvas = document.createElement("canvas");
  canvas.width = page.video.videoWidth;
  canvas.height = page.video.videoHeight;
  canvas.getContext("2d").drawImage(page.video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => add([new File([blob], "camera.png", { type: "image/png" })]));
}

let asked = null;

// Once, however many requests were refused.
function askForToken() {
  asked ??= new Promise((resolve) => {
    page.token.value = "";
    page.tokenDialog.showModal();
    page.tokenError.textContent = remembers() ? "That token is wrong." : "";
    page.tokenDialog.onclose = () => {
      remember(page.token.value.replace(/\p{Cf}/gu, "").trim()); // what is pasted may hold what nobody sees
      asked = null;
      resolve(prepare());
    };
  });
  return asked;
}

async function prepare() {
  try {
    const { models: loaded } = await models();
    const mattes = loaded.filter((model) => model.task === "matte");
    page.model.replaceChildren(...mattes.map((model) => new Option(model.name)));
    page.modelChoice.hidden = mattes.length < 2;
    const labels = loaded.find((model) => model.task === "segment")?.labels ?? [];
    page.labelChoice.hidden = !labels.length;
    page.labels.replaceChildren(...labels.map((label) => new Option(label)));
  } catch (error) {
    if (error.status === 401) await askForToken();
  }
}

// ---- What is pressed, drawn, dropped and pasted

function chosen(part) {
  for (const name of ["box", "point", "label"]) delete shown[name];
  Object.assign(shown, part);
  viewer.mark(shown);
  fill();
  again([shown]);
}

viewer.addEventListener("box", ({ detail }) => chosen({ box: detail }));
viewer.addEventListener("point", ({ detail }) => chosen({ point: detail }));

for (const field of [page.x0, page.y0, page.x1, page.y1, page.px, page.py]) {
  field.addEventListener("change", () => {
    const fields = viewer.tool === "box" ? [page.x0, page.y0, page.x1, page.y1] : [page.px, page.py];
    if (fields.every((one) => one.value !== "")) chosen({ [viewer.tool]: fields.map((one) => Number(one.value)) });
  });
}
page.label.addEventListener("change", () => chosen(page.label.value ? { label: page.label.value } : {}));

for (const radio of document.querySelectorAll('[name="subject"]')) {
  radio.addEventListener("change", () => {
    choose(radio.value);
    if (radio.value === "auto" && (shown.box || shown.point || shown.label)) chosen({});
  });
}
for (const radio of document.querySelectorAll('[name="background"]')) {
  radio.addEventListener("change", () => {
    page.colourFields.hidden = radio.value !== "colour";
    page.pictureFields.hidden = radio.value !== "picture";
    if (radio.value !== "picture" || background) again();
  });
}
for (const swatch of document.querySelectorAll("[data-colour]")) {
  swatch.addEventListener("click", () => {
    page.colour.value = swatch.dataset.colour;
    again();
  });
}
page.colour.addEventListener("input", () => again());
page.model.addEventListener("change", () => again());
for (const name of ["feather", "grow"]) {
  page[name].addEventListener("input", () => {
    page[`${name}Value`].value = `${page[name].value} px`;
    again();
  });
}

for (const button of document.querySelectorAll(".choose")) button.addEventListener("click", () => page.files.click());
page.files.addEventListener("change", () => {
  add(page.files.files);
  page.files.value = "";
});
page.chooseBackground.addEventListener("click", () => page.backgroundFile.click());
page.backgroundFile.addEventListener("change", () => {
  if (!page.backgroundFile.files.length) return; // closed without a choice
  [background] = page.backgroundFile.files;
  page.backgroundName.textContent = background.name;
  again();
});

for (const button of document.querySelectorAll(".camera")) {
  button.hidden = !navigator.mediaDevices;
  button.addEventListener("click", openCamera);
}
page.shoot.addEventListener("click", shoot);
page.cameraClose.addEventListener("click", closeCamera);
page.cameraDialog.addEventListener("cancel", closeCamera);

page.zoomIn.addEventListener("click", () => viewer.zoom(1.25));
page.zoomOut.addEventListener("click", () => viewer.zoom(0.8));
page.zoomFit.addEventListener("click", () => viewer.fit());
page.cancel.addEventListener("click", () => {
  shown.state = "cancelled";
  shown.abort?.abort();
  draw();
});
page.retry.addEventListener("click", () => again([shown]));
for (const button of [page.dismiss, page.remove]) button.addEventListener("click", () => remove(shown));
for (const place of [page.stage, page.strip]) {
  place.addEventListener("keydown", (event) => {
    if (event.key === "Delete") remove(shown);
  });
}
page.example.addEventListener("click", async () => {
  try {
    const answer = await fetch(page.example.firstElementChild.src);
    if (!answer.ok) throw new Refusal(answer.status, "the example is not there");
    example = new File([await answer.blob()], "coffee.jpg", { type: "image/jpeg" });
  } catch {
    return tell("The server cannot be reached. Is it still running?");
  }
  add([example]);
});
page.download.addEventListener("click", () => {
  save(shown.result.blob, `${stem(shown.name)}.cut.png`);
  shown.result.taken = true;
});
page.downloadWebp.addEventListener("click", saveWebp);
page.copy.addEventListener("click", copy);
page.downloadAll.addEventListener("click", saveAll);

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  page.drop.hidden = !event.dataTransfer.types.includes("Files");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) page.drop.hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  page.drop.hidden = true;
  add(event.dataTransfer.files);
});

// Browsers ask before they leave a page whose results nobody has taken; the example is missed by nobody.
window.addEventListener("beforeunload", (event) => {
  const missed = ({ state, file, result }) => state === "done" && file !== example && !result.taken;
  if (pictures.some(missed)) event.preventDefault();
});

prepare();
