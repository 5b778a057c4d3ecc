// Filters: conditions on columns, in words or in SQL, the lowest score, and where and when pictures are from.

import { $, button, h, number } from "./dom.js";
import { ask } from "./api.js";

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const like = (text) => quoted(`%${text.replaceAll(/[\\%_]/g, "\\$&")}%`);

// By kind of column: what is shown, and the condition that it makes.
const OPERATIONS = {
  text: { contains: (c, v) => `${c} LIKE ${like(v)}${/[\\%_]/.test(v) ? " ESCAPE '\\'" : ""}`, is: (c, v) => `${c} = ${quoted(v)}`, "is not": (c, v) => `${c} != ${quoted(v)}` },
  number: { "at least": (c, v) => `${c} >= ${v}`, "at most": (c, v) => `${c} <= ${v}`, is: (c, v) => `${c} = ${v}` },
  list: { has: (c, v) => `has(${c}, ${quoted(v)})` },
  time: { since: (c, v) => `${c} >= ${quoted(v)}`, before: (c, v) => `${c} < ${quoted(v)}` },
};
const COLUMNS = [
  { name: "name", kind: "text" },
  { name: "width", kind: "number" },
  { name: "height", kind: "number" },
  { name: "size", kind: "number" },
  { name: "modified", kind: "time" },
];
let columns = COLUMNS;
let shown_for = null;

const SIGNS = { ">=": "≥", "<=": "≤", "!=": "≠" };

/** A condition as a chip shows it: `width >= 800` -> "width ≥ 800". */
export function in_words(condition) {
  const [, column, found] = /^(\w+) LIKE '%([^%_\\]*)%'$/.exec(condition) ?? [];
  if (column) return `${column} contains “${found.replaceAll("''", "'")}”`;
  return condition.replace(/ (>=|<=|!=) /g, (all, sign) => ` ${SIGNS[sign]} `);
}

/** Show the conditions in use. */
export function conditions(state, changed, edit) {
  const list = $("#where");
  list.hidden = !state.where.length;
  list.replaceChildren(...state.where.map((each) => {
    const others = state.where.filter((other) => other !== each);
    return h("li", { class: "chip" },
      h("button", { type: "button", class: "what", title: `Edit: ${each}`, text: in_words(each), onclick: () => (changed(others), edit(each)) }),
      button(`Remove the filter ${in_words(each)}`, "x", () => changed(others), { quiet: true }));
  }));
}

// What the server calls the kinds of columns, where that is not the name of their operations.
const KINDS = { integer: "number", real: "number" };
const HIDDEN = new Set(["row", "mtime", "meta", "path", "id"]); // of no use to people, or better written in SQL

/** Fill the panel with the columns that an index has, and its facets. */
export async function fill(state, add, seen) {
  if (shown_for === state.index) return;
  shown_for = state.index;
  try {
    const found = await ask("/v1/columns", { query: { index: state.index } });
    columns = found.columns.filter((each) => each.there && !HIDDEN.has(each.name)).map((each) => ({ ...each, kind: KINDS[each.kind] ?? each.kind }));
  } catch {
    const keys = new Set(seen.flatMap((hit) => Object.keys(hit.metadata ?? {})));
    columns = [...COLUMNS, ...[...keys].slice(0, 50).map((key) => ({ name: key, sql: `meta ->> ${quoted(key)}`, kind: "text" }))];
  }
  $("#column").replaceChildren(...columns.map((each, at) => h("option", { value: at, text: each.name })));
  chosen();
  facets(state, add);
}

/** How an operation names a column. */
const named = (column) => (column.kind === "list" && column.of_metadata ? `meta, ${quoted(column.name)}` : (column.sql ?? column.name));

function chosen() {
  const column = columns[$("#column").value] ?? columns[0];
  $("#operation").replaceChildren(...Object.keys(OPERATIONS[column.kind]).map((each) => h("option", { text: each })));
  const value = $("#value");
  value.type = { number: "number", time: "date", text: "text" }[column.kind];
  value.step = "any";
  value.placeholder = column.name === "size" ? "bytes" : column.least !== undefined && column.kind === "number" ? `${column.least} to ${column.greatest}` : "";
  $("#values").replaceChildren(...(column.values ?? []).map((each) => h("option", { value: each.value })));
}

const FACETS = { folder: "Folders", taken: "Taken", modified: "Modified" };

async function facets(state, add) {
  const by = Object.keys(FACETS).filter((each) => columns.some((column) => column.name === each && column.there));
  const made = await Promise.all(by.map(async (each) => {
    try {
      const { values, sampled } = await ask("/v1/facets", { query: { by: each, index: state.index, limit: 12 } });
      return values.length > 1 ? facet(FACETS[each], values, add, sampled ? "about " : "") : null;
    } catch {
      return null;
    }
  }));
  $("#facets").replaceChildren(...made.filter(Boolean));
}

function facet(title, values, add, about) {
  return h("section", { class: "facet" }, h("h3", { text: title }), h("ul", {}, ...values.map((each) =>
    h("li", {}, h("button", { type: "button", title: each.value, onclick: () => add(each.where) },
      h("span", { text: each.value }), h("small", { text: about + number(each.count) }))))));
}

/** Show why the server refuses the conditions; `written` goes back into its field. */
export function wrong(text, written = "") {
  const place = $("#sql-error");
  place.textContent = text ?? "";
  place.hidden = !text;
  $("#sql").toggleAttribute("aria-invalid", false);
  if (text) $("#sql").setAttribute("aria-invalid", "true");
  if (written) $("#sql").value = written;
}

/** Listen to the panel; `add(condition)` is told of a new one. */
export function listen(add) {
  $("#column").addEventListener("change", chosen);
  $("#build").addEventListener("submit", (event) => {
    event.preventDefault();
    const column = columns[$("#column").value] ?? columns[0];
    const value = $("#value").value.trim();
    if (!value) return $("#value").focus();
    add(OPERATIONS[column.kind][$("#operation").value](named(column), value));
    $("#value").value = "";
  });
  $("#raw").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = $("#sql").value.trim();
    if (!value) return;
    add(value);
    $("#sql").value = "";
  });
  $("#sql").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      $("#raw").requestSubmit();
    }
  });
}
