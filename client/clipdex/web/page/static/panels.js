// Views beside the search: facts of an index, pictures that could not be read, and duplicates.

import { $, button, bytes, copy, counted, h, number } from "./dom.js";
import { ask } from "./api.js";

const KINDS = { exact: "Same bytes", perceptual: "Same look", semantic: "Same content", local: "Crops and collages" };

// Labels of the facts; those that the page shows elsewhere are left out.
const FACTS = {
  index: "Index", path: "Path", model: "Model", embedding_dim: "Dimensions", dtype: "Stored as", pictures: "Pictures", removed: "Removed rows, until compaction",
  bytes_on_disk: "On disk", first_commit: "First commit", last_commit: "Last commit", has_model: "Search by text", allows_write: "Adding pictures",
  shows_paths: "Showing paths", version: "clipdex version", fingerprint: "Fingerprint", indexes: "",
};

/** Show the facts of an index. */
export async function info(index) {
  const dialog = $("#info");
  const body = $(".body", dialog);
  body.replaceChildren(h("p", { text: "Asking the server…" }));
  dialog.showModal();
  const [facts, failures] = await Promise.all([
    ask("/v1/info", { query: { index } }).catch((problem) => problem),
    ask("/v1/failures", { query: { index, limit: 50 } }).catch(() => null),
  ]);
  if (facts instanceof Error) return body.replaceChildren(h("p", { class: "error", text: facts.message }));
  body.replaceChildren(h("dl", {}, ...entries(facts)), ...failed(failures));
}

function entries(facts) {
  const order = Object.keys(FACTS);
  const named = Object.entries(facts).filter(([name]) => FACTS[name] !== "").sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  return named.flatMap(([name, value]) => {
    const text = worded(name, value);
    return text ? [h("div", {}, h("dt", { text: FACTS[name] ?? name.replaceAll("_", " ") }), h("dd", { text }))] : [];
  });
}

function worded(name, value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return name.startsWith("bytes") ? bytes(value) : number(value);
  if (typeof value === "object") return Object.entries(value).map(([key, each]) => `${key}: ${each}`).join(", ");
  return name.endsWith("_commit") ? `${value.slice(0, 16).replace("T", " ")} UTC` : value;
}

function failed(answer) {
  const list = answer?.failures ?? [];
  if (!list.length) return answer ? [h("p", { text: "Every picture could be read." })] : [];
  return [
    h("h3", { text: `${counted(answer.total, "picture")} could not be read` }),
    h("ul", { class: "failures" }, ...list.map((each) => h("li", {},
      h("strong", { text: each.path ?? each.name }), h("span", { text: each.reason }), h("small", { text: each.detail })))),
  ];
}

/** Show groups of duplicates side by side. */
export async function duplicates(state, { kind, open }) {
  const place = $("#duplicates");
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Kind of duplicates" }, ...Object.entries(KINDS).map(([name, label]) =>
    h("button", { type: "button", "aria-pressed": String(name === kind), text: label, onclick: () => duplicates(state, { kind: name, open }) })));
  const status = h("p", { class: "note", role: "status", text: "Comparing…" });
  const groups = h("div", { class: "groups" });
  place.replaceChildren(h("h1", { text: "Duplicates" }), tabs, status, groups);
  let offset = 0;
  const more = button("Show more", null, () => next(), { class: "button wide" });
  const next = async () => {
    more.disabled = true;
    try {
      const waiting = (problem) => (status.textContent = `${problem.message}…`);
      const answer = await ask("/v1/duplicates", { query: { kind, index: state.index, limit: 20, offset }, waiting, times: 200 });
      if (!status.isConnected) return; // another kind has been chosen meanwhile
      groups.append(...answer.groups.map((each) => group(each, open)));
      offset = answer.next_offset;
      status.textContent = answer.total ? `${counted(answer.total, "group")}. The first of each is the one to keep: the largest, then the oldest.` : "No duplicates of this kind.";
      more.remove();
      if (offset) place.append(more);
    } catch (problem) {
      status.className = "error";
      status.textContent = problem.message;
    }
    more.disabled = false;
  };
  await next();
}

const RELATIONS = { exact: "same bytes", near: "same look", semantic: "same content", local: "shows a part of it" };
const alike = ({ relation, similarity, placement }) => (placement ? `${RELATIONS.local}, ${counted(placement.points, "point")}` : relation === "exact" ? RELATIONS.exact : `${RELATIONS[relation]}, ${Math.floor(similarity * 1000) / 10} %`);

function group({ pictures, size }, open) {
  return h("section", { class: "group" }, h("h2", { text: `${pictures[0].name} · ${counted(size, "picture")}` }),
    h("ul", {}, ...pictures.map((each, at) => h("li", {},
      h("button", { type: "button", class: "pair", onclick: () => open(each, pictures) },
        h("img", { src: each.thumbnail, alt: each.name, loading: "lazy", width: each.width || 320, height: each.height || 320, onerror: (event) => event.target.classList.add("broken") })),
      h("p", {}, h("strong", { text: each.name }), at ? null : h("span", { class: "keep", text: "keep" })),
      at ? h("p", { class: "soft", text: alike(each) }) : null,
      h("p", { class: "soft", text: [each.width ? `${each.width} × ${each.height}` : "", each.size ? bytes(each.size) : "", (each.modified ?? "").slice(0, 10)].filter(Boolean).join(" · ") }),
      each.path || each.id ? button(each.id ? "Copy id" : "Copy path", "copy", () => copy(each.id ?? each.path, each.id ? "Id" : "Path")) : null))));
}
