// The parts of a query as chips, and pictures that are dropped, pasted or chosen.

import { $, button, h, toast } from "./dom.js";
import { ask } from "./api.js";
import { root, uploads } from "./state.js";

const LARGEST = 64 << 20;
const names = new Map(); // "index/row" -> what the server says of a picture

const said = (part) => ({ text: part.value, upload: uploads.get(part.value)?.name ?? part.value, id: part.value })[part.kind];

/** Show the parts. `changed(parts)` is told of each change; `edit(text)` of a text that goes back to the box. */
export function chips(state, changed, edit) {
  const list = $("#parts");
  const focused = list.contains(document.activeElement) && document.activeElement.dataset.at;
  list.replaceChildren(...state.parts.map((part, at) => chip(state, part, at, changed, edit)));
  list.hidden = !state.parts.length;
  if (focused) (list.querySelector(`[data-at="${focused}"]`) ?? $("#text")).focus();
}

function chip(state, part, at, changed, edit) {
  const others = state.parts.filter((each) => each !== part);
  const weigh = (weight) => {
    const rounded = Math.round(weight * 10) / 10;
    if (rounded && Math.abs(rounded) <= 5) changed(state.parts.map((each) => (each === part ? { ...part, weight: rounded } : each)));
  };
  const label = h("span", { class: "what", text: said(part) ?? `picture ${part.value}` });
  const weight = h("input", {
    type: "number", step: "0.1", min: "-5", max: "5", value: String(part.weight), "data-at": `w${at}`,
    "aria-label": `Weight of ${label.textContent}`, title: "Weight: change it with the arrow keys; below zero subtracts",
    onchange: (event) => weigh(Number(event.target.value)),
  });
  const made = h("li", { class: part.weight < 0 ? "chip minus" : "chip" },
    h("span", { class: "sign", text: part.weight < 0 ? "−" : "+", "aria-label": part.weight < 0 ? "less like" : "more like" }),
    preview(state, part),
    part.kind === "text" ? h("button", { type: "button", class: "what", title: "Edit", text: part.value, onclick: () => (changed(others), edit(part.value)) }) : label,
    button("Switch between more and less like this", "swap", () => weigh(-part.weight), { quiet: true, "data-at": `s${at}` }),
    weight,
    button(`Remove ${label.textContent}`, "x", () => changed(others), { quiet: true, "data-at": `x${at}` }));
  if (part.kind === "row") named(state, part, label);
  return made;
}

function preview(state, part) {
  if (part.kind === "text") return null;
  const query = new URLSearchParams({ side: "160", ...(part.version ? { v: part.version } : {}), ...(state.index ? { index: state.index } : {}) });
  const from = { upload: uploads.get(part.value)?.url, row: `${root}/v1/pictures/${part.value}/thumbnail?${query}` }[part.kind];
  return from ? h("img", { src: from, alt: "", width: 28, height: 28, onerror: (event) => event.target.remove() }) : null;
}

/** What a picture of a row is called; a note if another picture has its row now. */
async function named(state, part, label) {
  const key = `${state.index}/${part.value}`;
  try {
    if (!names.has(key)) names.set(key, await ask(`/v1/pictures/${part.value}`, { query: { index: state.index } }));
    const { name, version } = names.get(key);
    label.textContent = name;
    if (part.version && part.version !== version) {
      toast("The index was compacted, and a picture of this search has moved: another one is in its row.");
    }
  } catch {
    label.textContent = `picture ${part.value} (no longer there)`;
  }
}

/** The request of a search: JSON, or a form with the files of its pictures. */
export function request(state, options) {
  const text = state.text.trim();
  const parts = [...(text ? [{ kind: "text", value: text, weight: 1 }] : []), ...state.parts];
  const alone = parts.length === 1 && parts[0].weight > 0;
  const json = alone ? { ...options, ...one(parts[0]) } : { ...options, parts: parts.map((part) => ({ ...one(part), weight: part.weight })) };
  const files = parts.filter((part) => part.kind === "upload").map((part) => uploads.get(part.value).file);
  if (!files.length) return { json };
  const form = new FormData();
  form.append("request", JSON.stringify(json));
  for (const file of files) form.append("image", file);
  return { form };
}

/** The request of a search for the very picture: a form. A text says among which pictures. */
export function match_request(state, options) {
  const text = state.text.trim();
  const form = new FormData();
  form.append("request", JSON.stringify(text ? { ...options, within: text } : options));
  form.append("image", uploads.get(state.parts[0].value).file);
  return { form };
}

function one(part) {
  if (part.kind === "row") return { row: Number(part.value) };
  return part.kind === "upload" ? { image: "attached" } : { [part.kind]: part.value };
}

/** Take a picture's file as a part of the query; returns the part, or null if it cannot be one. */
export function upload(file) {
  if (file.size > LARGEST) return void toast(`${file.name} is larger than 64 MB, the limit for a search.`);
  if (file.type && !file.type.startsWith("image/")) return void toast(`${file.name} is not a picture.`);
  const name = (file.name || "pasted picture").slice(0, 80);
  let token = name;
  for (let i = 2; uploads.has(token); i++) token = `${name} (${i})`;
  uploads.set(token, { file, name, url: URL.createObjectURL(file) });
  return { kind: "upload", value: token, weight: 1 };
}

/** Tell `taken(part)` of each picture that is dropped on the page, pasted, or chosen. */
export function watch_pictures(taken) {
  const take = (files) => {
    const part = files?.length ? upload(files[0]) : null;
    if (part) taken(part);
    return Boolean(files?.length);
  };
  const veil = $("#veil");
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => carries(event) && (depth++, (veil.hidden = false)));
  addEventListener("dragleave", (event) => carries(event) && --depth <= 0 && ((depth = 0), (veil.hidden = true)));
  addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files) && event.preventDefault());
  const chooser = $("#choose");
  chooser.addEventListener("change", () => {
    take(chooser.files);
    chooser.value = "";
  });
}
