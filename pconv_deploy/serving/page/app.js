// The page: what is open, what is shown, and what its buttons do.
import * as api from "./api.js";
import { changedKnown, difference } from "./compare.js";
import { Hole, canvasOfMask } from "./hole.js";
import { Painter } from "./painter.js";
import { kindOf, upright } from "./pictures.js";
import { Picture, View } from "./view.js";

const $ = (id) => document.getElementById(id);
const view = new View($("stage"));
const painter = new Painter(view, () => open.hole, refresh);

let limits = {};
// {name, stem, kind, original, current, results, hole, given}: a photo's versions are {blob,
// picture}; `results` has one for each engine that filled; `given` is the hole they filled.
let open = null;
let filling = null; // AbortController
let opening = 0; // how many photos were begun to be opened: the last one counts

const FORMATS = { jpg: "JPEG", png: "PNG", webp: "WebP", tif: "TIFF" };

// --- starting ---

async function start() {
  try {
    const told = await api.server();
    limits = told.limits;
    for (const { name, backend, precision } of told.models) {
      $("engine").add(new Option(`${name} (${backend}, ${precision})`, name));
      $("beside").add(new Option(name, name));
    }
    $("beside").add(new Option("none", ""), 0);
    $("beside").value = "";
    $("beside-label").hidden = told.models.length < 2;
    $("key-form").hidden = !told.needs_key || Boolean(api.key.get());
    await offerExamples();
  } catch (error) {
    failed(error);
  }
}

async function offerExamples() {
  for (const { name, credit, image } of await api.examples()) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const picture = new Image();
    picture.src = image;
    picture.alt = name;
    picture.loading = "lazy";
    button.append(picture);
    button.addEventListener("click", () => api.file(image).then((blob) => openPhoto(blob, `${name}.jpg`), failed));
    const small = document.createElement("small");
    small.textContent = credit;
    item.append(button, small);
    $("examples").append(item);
  }
}

// --- photos ---

async function openPhoto(blob, name) {
  const mine = ++opening;
  hide($("notice"));
  try {
    const megabytes = blob.size / 2 ** 20;
    if (megabytes > limits.max_body_mib) {
      throw new Error(`${name} has ${megabytes.toFixed(0)} MiB; this server takes ${limits.max_body_mib} MiB at most.`);
    }
    const kind = await kindOf(blob);
    const picture = new Picture(await shown(blob, name, kind));
    const { width, height } = picture;
    if (width * height > limits.max_megapixels * 1e6) {
      throw new Error(`${name} has ${((width * height) / 1e6).toFixed(1)} megapixels; this server takes ${limits.max_megapixels} at most (its option --max-megapixels).`);
    }
    if (mine !== opening) return;
    filling?.abort();
    painter.cancel();
    if (open) close(open);
    hide($("problem"));
    const original = { blob, picture };
    open = { name, stem: name.replace(/\.[^.]*$/, "") || "photo", kind, original, current: original, results: [], hole: new Hole(width, height) };
  } catch (error) {
    if (mine === opening) failed(error);
    return;
  }
  $("start").hidden = true;
  $("work").hidden = false;
  const own = open.kind || "png";
  $("format").replaceChildren(...[...new Set([own, "png"])].map((kind) => new Option(FORMATS[kind], kind)));
  paint();
  view.fit();
  view.canvas.focus({ focusVisible: false });
  say(`${name}, ${open.original.picture.width} x ${open.original.picture.height}. Paint over what should go, then press Fill.`);
}

// Free the pictures of a photo that is not shown any more.
function close({ original, current, results }) {
  for (const { picture } of new Set([original, current, ...results])) picture.close();
}

// The bitmap of a photo; the server reads what this browser does not.
async function shown(blob, name, kind) {
  if (kind && kind !== "tif") {
    try {
      return await upright(blob);
    } catch {
      throw new Error(`${name} cannot be read: it is damaged, or of a kind that is not read here.`);
    }
  }
  return upright(await api.converted($("engine").value, blob, name, "png"));
}

async function openMask(blob, name) {
  hide($("problem"));
  const photo = open;
  try {
    const { width, height } = photo.current.picture;
    const bitmap = await shown(blob, name, await kindOf(blob));
    const fits = bitmap.width === width && bitmap.height === height;
    const asked = `${name} is ${bitmap.width} x ${bitmap.height}, the photo ${width} x ${height}. Scale the mask to the photo?`;
    if (!fits && !confirm(asked)) return;
    if (open !== photo || filling) return;
    const canvas = canvasOfMask(bitmap, width, height);
    if (canvas) open.hole.add({ tool: "mask", canvas });
    paint();
    say(canvas ? `${name} loaded as the hole.` : `${name} holds no hole: it is black.`);
  } catch (error) {
    complain(error, () => openMask(blob, name));
  }
}

// --- what is shown ---

// Photo and hole, to be painted on.
function paint() {
  const { current, hole } = open;
  for (const { picture } of open.results) if (picture !== open.current.picture) picture.close();
  open.results = [];
  show([{
    description: "The photo; what is painted over will be filled. Arrow keys move the brush, Space paints.",
    draw(context, scale) {
      current.picture.draw(context, scale);
      context.globalAlpha = 0.6;
      context.drawImage(hole.canvasFor(scale), 0, 0, current.picture.width, current.picture.height);
      context.globalAlpha = 1;
      painter.draw(context, scale);
    },
  }]);
}

// The results beside each other, each with what was there before.
function compare(map) {
  const before = open.current.picture;
  const panes = open.results.map(({ engine, picture }) => ({
    label: open.results.length > 1 ? engine : "",
    description: `Filled by ${engine}; left of the border is the photo before`,
    draw(context, scale) {
      picture.draw(context, scale);
      const border = ($("slider").value / 1000) * before.width;
      context.save();
      context.beginPath();
      context.rect(0, 0, border, before.height);
      context.clip();
      before.draw(context, scale);
      context.restore();
      context.fillStyle = "#fff";
      if (border > 0 && border < before.width) context.fillRect(border - 1 / scale, 0, 2 / scale, before.height);
    },
  }));
  if (map) panes.push({ label: "difference", description: "Where the two differ", draw: (context) => context.drawImage(map, 0, 0) });
  $("which").replaceChildren(...open.results.map(({ engine }, index) => new Option(engine, index)));
  show(panes);
}

// The result that is saved, or gone on from.
function chosen() {
  return open.results[$("which").value || 0] ?? open.current;
}

function goOnFrom(version) {
  const { current, original } = open;
  open.current = version;
  if (current !== original && current !== version) current.picture.close();
  paint();
}

function show(panes) {
  const { width, height } = open.current.picture;
  view.show(panes, width, height);
  refresh();
}

function refresh() {
  if (!open) return;
  const filled = open.results.length > 0;
  const busy = Boolean(filling);
  painter.enabled = !filled && !busy;
  $("undo").disabled = filled || busy || !open.hole.canUndo;
  $("redo").disabled = filled || busy || !open.hole.canRedo;
  for (const id of ["clear", "invert", "mask-load"]) $(id).disabled = filled || busy;
  for (const button of $("tools").children) {
    button.disabled = filled || busy;
    const chosen = button.dataset.tool === painter.tool;
    button.setAttribute("aria-checked", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  $("fill").hidden = $("how").hidden = filled;
  $("fill").disabled = busy;
  $("cancel").hidden = $("busy").hidden = !busy;
  $("slider-row").hidden = $("result").hidden = !filled;
  $("again").hidden = $("back").hidden = !filled;
  $("which-label").hidden = open.results.length < 2;
  const versions = filled || open.current !== open.original;
  $("after").hidden = !versions || busy;
  $("original").hidden = open.current === open.original;
  $("download-row").hidden = !versions || busy;
  $("size-told").textContent = `${painter.size} px`;
  $("size").setAttribute("aria-valuetext", `${painter.size} pixels`);
  view.redraw();
}

view.addEventListener("drawn", () => { $("zoom-told").textContent = `${Math.round(100 * view.scale)} %`; });

// --- filling ---

async function fill() {
  if (filling || !open || open.results.length || !$("feather").reportValidity()) return;
  hide($("problem"));
  const photo = open, mine = new AbortController(), results = [];
  // What was awaited counts only if nobody has cancelled meanwhile.
  const still = (value) => { mine.signal.throwIfAborted(); return value; };
  filling = mine;
  const engines = [...new Set([$("engine").value, $("beside").value].filter(Boolean))];
  const { current, hole, name } = photo;
  busy("Filling");
  refresh();
  try {
    const { share, blob: mask } = still(await hole.mask());
    if (!share) throw new Error("Nothing is painted yet: paint over what should go.");
    // One after the other: their times are to be compared.
    for (const engine of engines) {
      if (engines.length > 1) busy(`Filling with ${engine}`);
      const filled = await api.fill(engine, current.blob, current === photo.original ? name : "photo.png", mask, { ...how(), signal: mine.signal });
      results.push({ engine, ...filled, picture: new Picture(await upright(filled.blob)) });
      still();
    }
    busy("Comparing");
    for (const result of results) result.changed = still(await changed(photo, result));
    const differs = results.length > 1 && still(await difference(...results.map(({ picture }) => picture.bitmap)));
    filling = null;
    photo.results = results;
    tellResult(results, differs);
    compare(differs?.map);
    say("Filled.");
    $("slider").focus({ focusVisible: false });
  } catch (error) {
    for (const { picture } of results) picture.close();
    if (open === photo && error.name === "AbortError") say("Cancelled.");
    else if (open === photo) complain(error, fill);
  } finally {
    if (filling === mine) filling = null;
    refresh();
  }
}

// What the server is asked for beside its own choice.
function how() {
  const region = $("region").value, feather = $("feather").value;
  return { ...(region && { region }), ...(Number(feather) && { feather }) };
}

function busy(text) {
  $("busy-told").textContent = text;
  say(`${text} …`);
}

// How many known pixels a result changed. Browsers may decode a JPEG otherwise than the server by a
// level: what seems changed is counted once more on the server's own decoding.
async function changed({ current, original, kind, hole, name }, { engine, picture }) {
  const painted = hole.canvasFor(Infinity);
  const count = await changedKnown(current.picture.bitmap, picture.bitmap, painted);
  if (!count || current !== original || kind === "png") return count;
  const decoded = await upright(await api.converted(engine, current.blob, name, "png"));
  return changedKnown(decoded, picture.bitmap, painted);
}

function tellResult(results, differs) {
  const changed = Math.max(...results.map((result) => result.changed));
  const { width, height } = open.current.picture;
  const share = results[0].holeShare;
  $("verdict").textContent = `${changed.toLocaleString("en")} known pixels changed; ${Math.round(share * width * height).toLocaleString("en")} filled (${(100 * share).toFixed(1)} % of the photo).`;
  $("verdict").classList.toggle("bad", changed > 0);
  $("format-note").textContent = open.kind === "jpg" ? "Saved as JPEG, known pixels are compressed anew; as PNG they stay as they are." : "";
  $("notes").replaceChildren(...results[0].notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  const stages = { queue: "wait", decode: "decode", pre: "prepare", infer: "engine", post: "blend", encode: "encode", total: "server", all: "round trip" };
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    line.append(...cells.map((text) => Object.assign(document.createElement(kind), { textContent: text })));
    return line;
  };
  $("timing").replaceChildren(
    row(["ms", ...Object.values(stages)], "th"),
    ...results.map(({ engine, milliseconds }) => row([engine, ...Object.keys(stages).map((stage) => milliseconds[stage].toFixed(milliseconds[stage] < 10 ? 1 : 0))], "td")),
  );
  $("difference").hidden = !differs;
  if (differs) {
    $("difference").textContent = differs.count
      ? `The two differ in ${differs.count.toLocaleString("en")} pixels, by ${differs.mean.toFixed(1)} of 255 on average there, ${differs.most} at most (yellow in the map).`
      : "The two pictures are equal, pixel for pixel.";
  }
}

// --- saving ---

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function download() {
  hide($("problem"));
  const format = $("format").value;
  const { blob } = chosen(), { stem } = open;
  try {
    const file = format === "png" ? blob : await api.converted($("engine").value, blob, "photo.png", format);
    save(file, `${stem}-filled.${format}`);
  } catch (error) {
    complain(error, download);
  }
}

// --- messages ---

function tell(place, text) {
  place.textContent = text;
  place.hidden = false;
}

function hide(place) {
  place.hidden = true;
}

function say(text) {
  $("told").textContent = text;
}

// What went wrong before a photo was open.
function failed(error) {
  tell($("notice"), error.message);
  askKey(error);
}

function askKey({ status }) {
  if (status !== 401) return;
  $("key-form").hidden = false;
  $("key").focus();
}

function complain(error, again) {
  const problem = $("problem");
  problem.querySelector("span").textContent = error.message;
  $("retry").hidden = ![0, 408, 500, 503].includes(error.status);
  $("retry").onclick = again;
  askKey(error);
  problem.hidden = false;
}

// --- buttons, keys, files ---

function choose(tool) {
  painter.tool = tool;
  refresh();
}

function resize(share) {
  painter.share = Math.min(1, Math.max(0, share));
  $("size").value = Math.round(100 * painter.share);
  refresh();
}

const actions = {
  open: () => $("photo-file").click(),
  choose: () => $("photo-file").click(),
  help: () => $("keys").showModal(),
  undo: () => { if (!painter.cancel()) open.hole.undo(); refresh(); },
  redo: () => { open.hole.redo(); refresh(); },
  clear: () => { painter.cancel(); open.hole.add({ tool: "clear" }); refresh(); },
  invert: () => { painter.cancel(); open.hole.add({ tool: "invert" }); refresh(); },
  "mask-load": () => $("mask-file").click(),
  "mask-save": async () => save((await open.hole.mask()).blob, `${open.stem}-hole.png`),
  "zoom-in": () => view.zoom(1.5),
  "zoom-out": () => view.zoom(1 / 1.5),
  "zoom-fit": () => view.fit(),
  fill,
  cancel: () => filling?.abort(),
  download,
  back: paint,
  again: () => {
    open.hole = new Hole(open.current.picture.width, open.current.picture.height);
    goOnFrom(chosen());
    say("Paint what should go next.");
  },
  original: () => goOnFrom(open.original),
};
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
for (const button of $("tools").children) button.addEventListener("click", () => choose(button.dataset.tool));
$("tools").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...$("tools").children];
  const next = buttons.at((buttons.findIndex(({ dataset }) => dataset.tool === painter.tool) + step) % buttons.length);
  choose(next.dataset.tool);
  next.focus();
});
$("size").addEventListener("input", () => resize($("size").value / 100));
$("slider").addEventListener("input", () => view.redraw());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set($("key").value);
  hide($("key-form"));
  hide($("notice"));
  hide($("problem"));
  say("The key is kept until this tab is closed.");
});
for (const [id, take] of [["photo-file", openPhoto], ["mask-file", openMask]]) {
  $(id).addEventListener("change", () => {
    const [file] = $(id).files;
    if (file) take(file, file.name);
    $(id).value = ""; // the same file may be chosen again
  });
}

addEventListener("keydown", (event) => {
  if (!open || $("keys").open || event.target.matches("input[type=password], select")) return;
  const key = event.key.toLowerCase();
  const name = event.ctrlKey || event.metaKey ? `ctrl ${event.shiftKey ? "shift " : ""}${key}` : key;
  const slide = (by) => { $("slider").value = Number($("slider").value) + by; view.redraw(); };
  const keys = {
    b: () => choose("brush"), e: () => choose("eraser"), r: () => choose("box"), l: () => choose("lasso"),
    "[": () => resize(painter.share - 0.05), "]": () => resize(painter.share + 0.05),
    "ctrl z": () => $("undo").click(), "ctrl shift z": () => $("redo").click(), "ctrl y": () => $("redo").click(),
    delete: () => $("clear").click(), i: () => $("invert").click(),
    "+": () => view.zoom(1.5), "=": () => view.zoom(1.5), "-": () => view.zoom(1 / 1.5), 0: () => view.fit(),
    "ctrl enter": fill, "<": () => slide(-50), ">": () => slide(50),
  };
  if (!keys[name]) return;
  event.preventDefault();
  keys[name]();
});

// What is dropped on an open photo may be the next photo or a mask: the page shows a place for each.
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) openPhoto(file, file.name || "pasted.png");
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
  $("drop-choice").hidden = !open;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) endDrag(); });
addEventListener("drop", (event) => {
  event.preventDefault();
  endDrag();
  const [file] = event.dataTransfer.files;
  if (!file) return;
  if (open && event.target.id === "drop-mask") openMask(file, file.name);
  else openPhoto(file, file.name);
});

function endDrag() {
  document.body.classList.remove("dragging");
  $("drop-choice").hidden = true;
}

resize(0.5);
start();
