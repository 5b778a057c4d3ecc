// The pictures: justified rows that CSS lays out, one tile a hit.

import { $, points, part_shown, svg } from "./dom.js";
import { address, part_like } from "./state.js";

const grid = $("#grid");
const key_of = (hit) => `${hit.row}.${hit.version}`;

/** @type {object[]} The hits on the page, in order; a tile's is at its `hit`. */
export const hits = [];

/** Extreme shapes are cropped, so that a row has room for others. */
const shape = (hit) => (hit.width && hit.height ? Math.min(3, Math.max(0.45, hit.width / hit.height)) : 1);

/** Fill in the page's own tile. */
function tile(hit, state) {
  const made = $("#tile").content.firstElementChild.cloneNode(true);
  const image = $("img", made);
  const like = (weight) => address({ index: state.index, parts: [part_like(hit, weight)] });
  image.width = hit.width || 320;
  image.height = hit.height || 320;
  image.srcset = `${hit.thumbnail}&side=640 2x`;
  image.src = hit.thumbnail;
  $(".open", made).href = `${hit.thumbnail}&side=1280`;
  $(".more", made).href = like(1);
  $(".less", made).href = like(-0.5);
  made.dataset.key = key_of(hit);
  return made;
}

function dress(made, hit) {
  made.hit = hit;
  made.style.setProperty("--ar", shape(hit));
  $(".name", made).textContent = hit.name;
  const shows = part_shown(hit);
  $("img", made).alt = shows ? `${hit.name}, ${points(hit)} agree, in ${shows}` : hit.name;
  $(".score", made).textContent = shows ? points(hit) : hit.score === undefined ? "" : hit.score.toFixed(3);
  $(".region", made)?.remove();
  if (shows) $(".open", made).append(region(hit));
  $(".more", made).setAttribute("aria-label", `More like ${hit.name}`);
  $(".less", made).setAttribute("aria-label", `Less like ${hit.name}`);
  const fold = $(".fold", made);
  const copies = hit.copies?.length ?? 0;
  fold.hidden = !copies;
  if (copies) {
    $("span", fold).textContent = `+${copies}`;
    fold.setAttribute("aria-label", `${copies === 1 ? "1 copy" : `${copies} copies`} of ${hit.name}`);
    fold.setAttribute("aria-expanded", "false");
  }
  $("img", made).addEventListener("error", () => made.classList.add("broken"), { once: true });
  return made;
}

/** Draw where a match has the dropped picture. The thumbnail is cropped to its tile as the drawing is. */
function region(hit) {
  const { width, height } = hit;
  const outline = `M${hit.region.map(([x, y]) => `${x} ${y}`).join("L")}Z`;
  return svg("svg", { class: "region", viewBox: `-0.5 -0.5 ${width} ${height}`, preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" },
    svg("path", { class: "around", d: `M-0.5 -0.5h${width}v${height}h${-width}Z${outline}` }),
    svg("path", { class: "under", d: outline }),
    svg("path", { class: "edge", d: outline }));
}

/** Show hits instead of those that are there; tiles of pictures that stay are kept. */
export function show(found, state) {
  const old = new Map([...grid.children].map((each) => [each.dataset.key, each]));
  hits.splice(0, hits.length, ...found);
  grid.replaceChildren(...found.map((hit) => made_or_kept(hit, state, old)));
  roam(grid.firstElementChild);
}

function made_or_kept(hit, state, old) {
  const kept = old.get(key_of(hit));
  old.delete(key_of(hit));
  kept?.classList.remove("copy");
  return dress(kept ?? tile(hit, state), hit);
}

/** Show further hits below. */
export function append(found, state) {
  const first = !grid.children.length;
  hits.push(...found);
  grid.append(...found.map((hit) => dress(tile(hit, state), hit)));
  if (first) roam(grid.firstElementChild);
}

/** Hide the last row while there is more to come that would fill it: its tiles would be seen to grow. */
export function hold_last_row(more) {
  for (const each of grid.querySelectorAll(".held")) each.classList.remove("held");
  const last = grid.lastElementChild?.offsetTop;
  if (!more || last === grid.firstElementChild?.offsetTop) return;
  for (let each = grid.lastElementChild; each?.offsetTop === last; each = each.previousElementSibling) each.classList.add("held");
}

/** Show or hide the copies of a tile's picture after it. */
export function unfold(made, state) {
  const button = $(".fold", made);
  const opening = button.getAttribute("aria-expanded") === "false";
  const at = hits.indexOf(made.hit) + 1;
  const { copies } = made.hit;
  button.setAttribute("aria-expanded", String(opening));
  if (opening) {
    hits.splice(at, 0, ...copies);
    const tiles = copies.map((hit) => dress(tile(hit, state), hit));
    tiles.forEach((each) => each.classList.add("copy"));
    made.after(...tiles);
  } else {
    hits.splice(at, copies.length);
    for (let count = copies.length; count; count--) made.nextElementSibling?.remove();
  }
  roam(made);
}

/** Make a tile the one that the Tab key reaches. */
export function roam(made, focus = false) {
  for (const each of grid.querySelectorAll("[tabindex='0']")) each.tabIndex = -1;
  if (!made) return;
  for (const each of made.querySelectorAll("a, button")) each.tabIndex = 0;
  if (focus) {
    $(".open", made).focus();
    made.scrollIntoView({ block: "nearest" });
  }
}

/** The tile of a hit. */
export const tile_of = (hit) => [...grid.children].find((each) => each.hit === hit);

/** Move among tiles by the arrow keys. Returns whether the key was one of them. */
export function move(key, from) {
  const tiles = [...grid.children];
  const at = tiles.indexOf(from);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  let to;
  if (step) to = tiles[at + step];
  else if (key === "Home") to = tiles[0];
  else if (key === "End") to = tiles.at(-1);
  else if (key === "ArrowDown" || key === "ArrowUp") to = beside(tiles, at, key === "ArrowDown" ? 1 : -1);
  else return false;
  if (to) roam(to, true);
  return true;
}

/** The tile in the next row that is most nearly below or above another. */
function beside(tiles, at, step) {
  const here = tiles[at].getBoundingClientRect();
  const middle = here.left + here.width / 2;
  let best;
  let row;
  for (let i = at + step; tiles[i]; i += step) {
    const box = tiles[i].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 2) continue;
    row ??= box.top;
    if (Math.abs(box.top - row) > 2) break;
    const off = Math.abs(box.left + box.width / 2 - middle);
    if (!best || off < best.off) best = { off, tile: tiles[i] };
  }
  return best?.tile;
}
