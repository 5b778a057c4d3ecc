// The page: what is typed, dropped and chosen becomes a state, which stands in the address and is searched for.

import { $, counted, number, toast } from "./dom.js";
import { Problem, ask } from "./api.js";
import * as grid from "./grid.js";
import * as query from "./query.js";
import { address, asks, joined, matches, may_match, part_like, read, uploads } from "./state.js";

const FIRST = 60; // pictures of the first page
const PAGE = 120; // of each further one
const MATCHES = 100; // the most that the server gives
const TYPING_MS = 220;
const SLOW_MS = 700;

const box = $("#text");
const status = $("#status");
const only_index = $("#index") ? "" : document.body.dataset.index;
let state = read(location.search);
let running = null; // the search that is under way
let next = null; // offset, or row, of the next page; null after the last
let total = 0;
let cut = []; // ends of texts that are longer than the model reads
let typing;
let viewer = null;
const lazily = (name) => import(`./${name}.js`);

// ---- the state and the address

/** Change the state. typed: by letters, so that many changes are one step back. */
function change(changes, { typed = false, quiet = false } = {}) {
  state = { ...state, ...changes };
  const where = address(state);
  const entry = { typed };
  if (typed && history.state?.typed) history.replaceState(entry, "", where);
  else if (where !== location.pathname + location.search) history.pushState(entry, "", where);
  if (!quiet) render();
}

/** Bring the page to the state. */
function render() {
  if (document.activeElement !== box || box.value.trim() !== state.text.trim()) box.value = state.text;
  if ($("#index")) $("#index").value = state.index || $("#index").options[0].value;
  query.chips(state, (parts) => change({ parts }), edit);
  $("#find").hidden = !may_match(state);
  $("#find-meaning").setAttribute("aria-pressed", String(!state.very));
  $("#find-very").setAttribute("aria-pressed", String(state.very));
  $("#find-parts").hidden = !matches(state);
  $("#find-parts input").checked = state.in_part;
  $("#min").value = state.min ?? 0;
  $("#min-shown").textContent = state.min === null ? "any" : state.min.toFixed(2);
  $("#group").checked = state.group;
  $(".pins").hidden = !state.text.trim();
  document.title = state.view === "duplicates" ? "Duplicates – clipdex" : state.text ? `${state.text} – clipdex` : "clipdex";
  $("#search-view").hidden = state.view === "duplicates";
  $("#duplicates").hidden = state.view !== "duplicates";
  $("#to-filters").disabled = state.view === "duplicates";
  $("#to-duplicates").setAttribute("aria-current", state.view === "duplicates" ? "page" : "false");
  if (state.where.length || !$("#filters").hidden) with_filters();
  else $("#where").hidden = true;
  if (state.view === "duplicates") duplicates();
  else search();
}

function edit(text) {
  box.value = text;
  change({ text });
  box.focus();
}

// ---- searching

let asked = "";
let problem_status = 0; // of the last answer that was none
let pending = ""; // a condition just written, which goes back to its field if it cannot be used
const question = () => JSON.stringify([state.index, state.text.trim(), state.parts, state.where, state.min, state.group, matches(state), matches(state) && state.in_part]);

/** Search for the state, or show the pictures as they are in the index if it asks for nothing. */
async function search(force = false) {
  if (question() === asked && !force) return;
  asked = question();
  running?.abort();
  const mine = (running = new AbortController());
  const missing = state.parts.filter((part) => part.kind === "upload" && !uploads.has(part.value));
  if (missing.length) {
    toast(`“${missing[0].value}” was dropped into another page. A dropped picture is not part of a link.`);
    return change({ parts: state.parts.filter((part) => !missing.includes(part)), very: false });
  }
  busy(true);
  try {
    const found = await page(0, mine.signal);
    grid.show(found, state);
    scrollTo(0, 0);
    said();
  } catch (problem) {
    if (mine.signal.aborted) return;
    failed(problem);
  } finally {
    if (running === mine) {
      running = null;
      busy(false);
      fill_window();
    }
  }
}

/** Ask for a page of pictures. */
async function page(from, signal) {
  const count = from ? PAGE : FIRST;
  const waiting = (problem) => (status.textContent = `${problem.title}; trying again…`);
  if (!asks(state)) {
    const answer = await ask("/v1/items", { query: { index: state.index, limit: count, after: from || "" }, signal, waiting });
    next = answer.next ?? answer.next_after ?? null;
    total = answer.pictures ?? answer.total ?? Number(document.body.dataset.pictures);
    return answer.items;
  }
  if (matches(state)) return matched(signal, waiting);
  const options = { top_k: count, offset: from, group: state.group };
  if (state.min !== null) options.min_score = state.min;
  if (state.where.length) options.where = joined(state.where);
  const body = query.request(state, options);
  const index = state.index || only_index;
  const answer = await ask("/v1/search", { query: { index }, ...body, signal, waiting });
  next = answer.next_offset;
  total = answer.pictures;
  cut = answer.cut ?? [];
  return answer.hits;
}

/** Ask for the pictures that show the dropped one. */
async function matched(signal, waiting) {
  const options = { top_k: MATCHES };
  if (state.in_part) options.parts = true;
  if (state.where.length) options.where = joined(state.where);
  const body = query.match_request(state, options);
  const answer = await ask("/v1/match", { query: { index: state.index || only_index }, ...body, signal, waiting });
  next = null;
  total = answer.pictures;
  cut = [];
  return answer.matches;
}

/** Load the next page, if there is one. */
async function further() {
  if (next === null || running || state.view) return false;
  document.body.classList.remove("stopped");
  const mine = (running = new AbortController());
  try {
    const found = await page(next, mine.signal);
    grid.append(found, state);
    said();
    return found.length > 0;
  } catch (problem) {
    if (!mine.signal.aborted) failed(problem, true);
    return false;
  } finally {
    if (running === mine) running = null;
  }
}

const AHEAD = 1500; // pixels below the window that are loaded before they are scrolled to

/** Load pages until there are pictures some way below the window. */
async function fill_window() {
  const short = () => $("#grid").getBoundingClientRect().bottom < innerHeight + AHEAD;
  while (next !== null && !running && !state.view && short() && (await further()));
}

new IntersectionObserver((entries) => entries[0].isIntersecting && fill_window(), { rootMargin: `${AHEAD}px` }).observe($("#more"));

addEventListener("resize", () => {
  grid.hold_last_row(next !== null);
  fill_window();
});

let slow;

function busy(on) {
  clearTimeout(slow);
  $("#results").setAttribute("aria-busy", String(on));
  document.body.classList.toggle("busy", false);
  if (on) {
    slow = setTimeout(() => {
      document.body.classList.add("busy");
      status.textContent = "Searching…";
    }, SLOW_MS);
  }
}

function said() {
  const count = grid.hits.length;
  $("#more").hidden = next === null;
  grid.hold_last_row(next !== null);
  $("#trouble").hidden = true;
  pending = "";
  filters?.wrong(null);
  if (!asks(state)) {
    status.textContent = total ? counted(total, "picture") : "";
    if (state.where.length || state.min !== null) status.textContent += " – filters apply once you search";
    if (!count) trouble("No pictures yet", "This index is empty. Add a folder with clipdex index, or pictures with clipdex add.");
    return;
  }
  if (matches(state)) {
    const among = state.text.trim() ? " among the pictures that best match the text" : "";
    status.textContent = `${number(count)} match${count === 1 ? "" : "es"}${among}`;
    const which = state.where.length || among ? "No picture that meets the text and the filters" : "No picture of the index";
    const instead = state.in_part ? "has a part in common with this one. Look for what it means instead." : "shows this one. Match parts too, or look for what it means instead.";
    if (!count) trouble("Not in the index", `${which} ${instead}`);
    return;
  }
  status.textContent = next === null ? counted(count, "result") : `${number(count)} best results of ${counted(total, "picture")}`;
  if (cut.length) status.textContent += ` – the text is too long for the model, which ignores “${cut[0].trim().slice(0, 60)}”`;
  if (count) {
    // The slider covers the scores that there are.
    $("#min").max = Math.max(0.3, Math.ceil(Math.max(grid.hits[0].score, state.min ?? 0) * 10) / 10);
  } else {
    const cut = state.where.length || state.min !== null;
    trouble("No results", cut ? "No picture meets the filters and the lowest score. Remove some of them." : "The index has no pictures to show.");
  }
}

/** Say why a search failed; the pictures of the last one stay, greyed, unless they are what is asked for. */
function failed(problem, below = false) {
  if (!(problem instanceof Problem)) {
    console.warn(problem);
    problem = new Problem(422, problem.message || String(problem));
  }
  if (!below) asked = "";
  const of_filter = state.where.length && (problem.status === 422 || problem.status === 403) && /condition|filter|where|column/i.test(problem.message);
  if (of_filter) {
    const written = pending;
    pending = "";
    if (written && state.where.includes(written)) {
      state = { ...state, where: state.where.filter((each) => each !== written) };
      history.replaceState(history.state, "", address(state));
      asked = question();
    }
    status.textContent = "The filter cannot be used.";
    open_filters(true).then(() => filters.wrong(problem.message, written));
    return;
  }
  problem_status = problem.status;
  grid.hold_last_row(false);
  if (!below) next = null;
  $("#more").hidden = !below;
  document.body.classList.toggle("stopped", below);
  status.textContent = problem.title;
  trouble(problem.title, problem.message, problem.status !== 422);
  if (!below) grid.show([], state);
}

function trouble(title, text, again = false) {
  $("#trouble").hidden = false;
  $("#trouble h2").textContent = title;
  $("#trouble p").textContent = text;
  $("#again").hidden = !again;
}

// ---- what is typed and chosen

function typed() {
  clearTimeout(typing);
  typing = setTimeout(() => change({ text: box.value, view: "", show: "" }, { typed: true }), TYPING_MS);
  $(".pins").hidden = !box.value.trim();
}

function pin(sign) {
  const value = box.value.trim();
  clearTimeout(typing);
  if (!value) return;
  box.value = "";
  change({ text: "", parts: [...state.parts, { kind: "text", value, weight: sign }], view: "" });
  box.focus();
}

/** Search for more, or less, like a picture; alone: for nothing else. */
function like(hit, weight, alone = false) {
  const part = part_like(hit, weight);
  const others = state.parts.filter((each) => each.kind !== part.kind || each.value !== part.value);
  viewer?.close();
  if (weight < 0 && !others.length && !state.text.trim()) toast("On its own, this shows the pictures that are least like it.");
  change(alone ? { text: "", parts: [part], show: "", view: "" } : { parts: [...others, part], show: "", view: "" });
}

box.addEventListener("input", typed);
$("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  change({ text: box.value, view: "", show: "" });
});
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.shiftKey || event.ctrlKey)) {
    event.preventDefault();
    pin(event.shiftKey ? -1 : 1);
  } else if (event.key === "ArrowDown" && $("#grid").firstElementChild) {
    event.preventDefault();
    grid.roam($("#grid").firstElementChild, true);
  } else if (event.key === "Escape" && box.value) {
    event.preventDefault();
    box.value = "";
    typed();
  }
});
$("#pin-plus").addEventListener("click", () => pin(1));
$("#pin-minus").addEventListener("click", () => pin(-1));
$("#find-meaning").addEventListener("click", () => change({ very: false, show: "" }));
$("#find-very").addEventListener("click", () => change({ very: true, show: "" }));
$("#find-parts input").addEventListener("change", (event) => change({ in_part: event.target.checked, show: "" }));
$("#picture").addEventListener("click", () => $("#choose").click());
query.watch_pictures((part) => change({ parts: [...state.parts.filter((each) => each.kind !== "upload"), part], view: "", show: "" }));
$("#index")?.addEventListener("change", () => change({ index: $("#index").value, parts: [], show: "" }));
// The page itself redirects to /login.
$("#again").addEventListener("click", () => (problem_status === 401 ? location.reload() : search(true)));
$("#more").addEventListener("click", (event) => {
  event.preventDefault();
  further().then(fill_window);
});
$(".home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  change({ text: "", parts: [], where: [], min: null, group: true, very: false, in_part: false, view: "", show: "" });
  box.focus();
});

// ---- tiles

$("#grid").addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile?.hit || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  grid.roam(tile);
  if (event.target.closest(".more")) like(tile.hit, 1);
  else if (event.target.closest(".less")) like(tile.hit, -0.5);
  else if (event.target.closest(".fold")) grid.unfold(tile, state);
  else if (event.target.closest(".open")) open(tile.hit);
});
$("#grid").addEventListener("focusin", (event) => grid.roam(event.target.closest(".tile")));
$("#grid").addEventListener("keydown", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile?.hit || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "+" || event.key === "-") like(tile.hit, event.key === "+" ? 1 : -0.5);
  else if (event.key === "c" && tile.hit.copies?.length) grid.unfold(tile, state);
  else if (!grid.move(event.key, tile)) return;
  event.preventDefault();
});

/** Open the viewer on a hit; among: the pictures that are its neighbours. */
async function open(hit, among = grid.hits) {
  viewer ??= await lazily("viewer");
  const show = `${hit.row}.${hit.version}`;
  if (state.show !== show) {
    const opening = !state.show;
    state = { ...state, show };
    history[opening ? "pushState" : "replaceState"]({ opened: opening || history.state?.opened }, "", address(state));
  }
  viewer.view(hit, {
    index: state.index,
    neighbour(step) {
      const at = among.indexOf(hit) + step;
      if (among === grid.hits && at >= among.length - 3) further().then(fill_window);
      return among[at];
    },
    moved: (to) => open(to, among),
    like,
    closed() {
      if (history.state?.opened) history.back();
      else change({ show: "" }, { quiet: true });
      state = { ...state, show: "" };
      const tile = grid.tile_of(hit);
      if (tile) grid.roam(tile, true);
    },
  });
}

/** The address names a picture to show. */
async function open_shown() {
  const [row, version] = state.show.split(".");
  try {
    const hit = grid.hits.find((each) => String(each.row) === row) ?? (await ask(`/v1/pictures/${row}`, { query: { index: state.index } }));
    if (hit.version === version) return open(hit);
  } catch {
    // Said below.
  }
  toast("The picture of this link is no longer in the index, or has moved to another row.");
  change({ show: "" }, { quiet: true });
}

addEventListener("popstate", () => {
  state = read(location.search);
  if (state.show) open_shown();
  else viewer?.close();
  render();
});

// ---- filters, and other panels

let filters = null;

function add_condition(condition) {
  pending = condition;
  change({ where: [...state.where.filter((each) => each !== condition), condition] });
}

async function with_filters() {
  if (!filters) {
    filters = await lazily("filters");
    filters.listen(add_condition);
  }
  filters.conditions(state, (where) => change({ where }), (text) => open_filters(true).then(() => (($("#sql").value = text), $("#sql").focus())));
  if (!$("#filters").hidden) await filters.fill(state, add_condition, grid.hits);
}

async function open_filters(on) {
  $("#filters").hidden = !on;
  $("#to-filters").setAttribute("aria-expanded", String(on));
  if (on) await with_filters();
}

$("#to-filters").addEventListener("click", async () => {
  const on = $("#filters").hidden;
  await open_filters(on);
  if (on) $("#column").focus();
});
$("#close-filters").addEventListener("click", () => {
  open_filters(false);
  $("#to-filters").focus();
});
$("#min").addEventListener("input", () => {
  const min = Number($("#min").value) || null;
  $("#min-shown").textContent = min === null ? "any" : min.toFixed(2);
  clearTimeout(typing);
  typing = setTimeout(() => change({ min }, { typed: true }), TYPING_MS);
});
$("#group").addEventListener("change", () => change({ group: $("#group").checked }));

let duplicates_of = null;

async function duplicates() {
  running?.abort();
  asked = "";
  if (duplicates_of === state.index) return;
  duplicates_of = state.index;
  (await lazily("panels")).duplicates(state, { kind: "perceptual", open });
}

$("#to-duplicates").addEventListener("click", (event) => {
  event.preventDefault();
  change({ view: state.view === "duplicates" ? "" : "duplicates", show: "" });
});
$("#to-info").addEventListener("click", async () => (await lazily("panels")).info(state.index || only_index));
$("#to-keys").addEventListener("click", () => $("#keys").showModal());
for (const each of document.querySelectorAll("dialog.sheet .close")) each.addEventListener("click", () => each.closest("dialog").close());
for (const each of document.querySelectorAll("dialog")) {
  each.addEventListener("click", (event) => event.target === each && each.close());
}
$("#to-theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const then = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = then;
  toast(`${then === "dark" ? "Dark" : "Light"} theme`);
  try {
    localStorage.setItem("clipdex-theme", then);
  } catch {
    // For this visit, then.
  }
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "?") $("#keys").showModal();
  else if (event.key === "f") $("#to-filters").click();
});

render();
if (state.show) open_shown();
