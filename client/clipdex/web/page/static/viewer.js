// One picture, large, with its facts, its neighbours, and what can be done with it.

import { $, button, bytes, copy, h, icon, part_shown, points } from "./dom.js";
import { ask } from "./api.js";

const dialog = $("#viewer");
const image = $(".stage img", dialog);
let hit = null;
let hooks = {};
let zoom = { scale: 1, x: 0, y: 0 };

/** Show a hit. `use` has index, neighbour(step), closed(), like(hit, weight), moved(hit). */
export function view(shown, use) {
  hooks = use;
  hit = shown;
  rest();
  image.classList.remove("broken");
  image.alt = hit.name;
  image.width = hit.width || 640;
  image.height = hit.height || 640;
  image.src = `${hit.thumbnail}&side=1280`;
  $("h2", dialog).textContent = hit.name;
  $(".previous", dialog).disabled = !hooks.neighbour(-1);
  $(".next", dialog).disabled = !hooks.neighbour(1);
  tell();
  if (!dialog.open) dialog.showModal();
  const asked = hit;
  if (!hit.metadata) {
    ask(`/v1/pictures/${hit.row}`, { query: { index: hooks.index } }).then(
      (found) => asked === hit && found.version === hit.version && (Object.assign(hit, { ...found, score: hit.score }), tell()),
      () => {});
  }
}

/** A value of the metadata as text. */
function shown(value) {
  if (Array.isArray(value)) return value.map(shown).join(", ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

function tell() {
  const facts = [
    ["Score", hit.score?.toFixed(4)],
    ["Agreeing", hit.inliers ? points(hit) : null],
    ["Part shown", part_shown(hit)],
    ["Pixels", hit.width ? `${hit.width} × ${hit.height}` : null],
    ["File size", hit.size ? bytes(hit.size) : null],
    ["Modified", hit.modified && `${hit.modified.slice(0, 16).replace("T", " ")} UTC`],
    ["Id", hit.id],
    ["Path", hit.path?.startsWith("id:") ? null : hit.path],
    ["Row", hit.row],
    ...Object.entries(hit.metadata ?? {}).map(([name, value]) => [name, shown(value)]),
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  $("dl", dialog).replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))));
  const named = hit.id ? ["Copy id", "Id", hit.id] : hit.path ? ["Copy path", "Path", hit.path] : ["Copy name", "Name", hit.name];
  $(".deeds", dialog).replaceChildren(
    button("Similar pictures", "similar", () => hooks.like(hit, 1, true)),
    button("More like this", "plus", () => hooks.like(hit, 1)),
    button("Less like this", "minus", () => hooks.like(hit, -0.5)),
    button(named[0], "copy", () => copy(named[2], named[1])),
    button("Copy link", "link", () => copy(location.href, "Link")),
    ...(hit.original ? [h("a", { href: hit.original, download: hit.name, class: "button" }, icon("download"), "Download")] : []));
}

function step(by) {
  const next = hooks.neighbour(by);
  if (next) hooks.moved(next);
}

function rest() {
  zoom = { scale: 1, x: 0, y: 0 };
  apply();
}

function apply() {
  image.style.transform = zoom.scale === 1 ? "" : `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  dialog.classList.toggle("zoomed", zoom.scale > 1);
}

function zoom_by(factor, x, y) {
  const box = $(".stage", dialog).getBoundingClientRect();
  const [dx, dy] = x === undefined ? [0, 0] : [x - box.left - box.width / 2, y - box.top - box.height / 2];
  const scale = Math.min(8, Math.max(1, zoom.scale * factor));
  const by = scale / zoom.scale;
  zoom = scale === 1 ? { scale, x: 0, y: 0 } : { scale, x: dx - (dx - zoom.x) * by, y: dy - (dy - zoom.y) * by };
  apply();
}

const keys = {
  ArrowRight: () => (zoom.scale > 1 ? pan(-80, 0) : step(1)),
  ArrowLeft: () => (zoom.scale > 1 ? pan(80, 0) : step(-1)),
  ArrowDown: () => pan(0, -80),
  ArrowUp: () => pan(0, 80),
  "+": () => zoom_by(1.5),
  "=": () => zoom_by(1.5),
  "-": () => zoom_by(1 / 1.5),
  0: rest,
};

function pan(x, y) {
  if (zoom.scale === 1) return;
  zoom.x += x;
  zoom.y += y;
  apply();
}

dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
dialog.addEventListener("close", () => hooks.closed?.());
$(".close", dialog).addEventListener("click", () => dialog.close());
$(".previous", dialog).addEventListener("click", () => step(-1));
$(".next", dialog).addEventListener("click", () => step(1));
$(".in", dialog).addEventListener("click", () => zoom_by(1.5));
$(".out", dialog).addEventListener("click", () => zoom_by(1 / 1.5));
image.addEventListener("error", () => image.classList.add("broken"));
const stage = $(".stage", dialog);
stage.addEventListener("dblclick", (event) => (zoom.scale > 1 ? rest() : zoom_by(2.5, event.clientX, event.clientY)));
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom_by(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX, event.clientY);
}, { passive: false });

// Dragging moves a zoomed picture; a swipe goes to its neighbour.
let from = null;
stage.addEventListener("pointerdown", (event) => {
  from = { x: event.clientX, y: event.clientY, zx: zoom.x, zy: zoom.y };
  if (zoom.scale > 1) stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!from || zoom.scale === 1) return;
  zoom.x = from.zx + event.clientX - from.x;
  zoom.y = from.zy + event.clientY - from.y;
  apply();
});
stage.addEventListener("pointerup", (event) => {
  const across = from ? event.clientX - from.x : 0;
  if (zoom.scale === 1 && Math.abs(across) > 60 && Math.abs(event.clientY - from.y) < 60) step(across < 0 ? 1 : -1);
  from = null;
});
stage.addEventListener("pointercancel", () => (from = null));

/** Close the viewer, if it is open, without telling. */
export function close() {
  hooks = {};
  if (dialog.open) dialog.close();
}
