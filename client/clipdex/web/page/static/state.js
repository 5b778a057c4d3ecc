// What is searched for, and how it stands in the address. The same words are read by routes/page.py.

/**
 * @typedef {{kind: "text"|"row"|"id"|"upload", value: string, weight: number, version?: string}} Part
 *   Part of a query beside the text of the box; a row has the version of its picture, since rows are renumbered.
 * @typedef {{index: string, text: string, parts: Part[], where: string[], min: number|null, group: boolean,
 *   very: boolean, in_part: boolean, view: string, show: string}} State
 *   very: a dropped picture itself is looked for, and not what it means. in_part: a part in common is enough then.
 */

/** The path at which the application is mounted. */
export const root = document.body.dataset.root ?? "";

/** Pictures dropped into this page, by the name that stands for them in its address. */
export const uploads = new Map();

/** @returns {State} */
export function read(search) {
  const given = new URLSearchParams(search);
  const min = parseFloat(given.get("min_score") ?? "");
  return {
    index: given.get("index") ?? "",
    text: given.get("text") ?? "",
    parts: given.getAll("part").map(part_of).filter(Boolean),
    where: given.getAll("where").filter(Boolean),
    min: Number.isFinite(min) ? min : null,
    group: given.get("group") !== "0",
    very: ["very", "parts"].includes(given.get("find")),
    in_part: given.get("find") === "parts",
    view: given.get("view") ?? "",
    show: given.get("show") ?? "",
  };
}

/** "0.5~row~17.9a0b1c2d3e4f5061" -> a part, or null for what is none. */
function part_of(text) {
  const [, weight, kind, rest] = /^(-?\d*\.?\d+)~(text|row|id|upload)~(.+)$/s.exec(text) ?? [];
  if (!kind || !Number(weight)) return null;
  const part = { kind, weight: Number(weight), value: rest };
  if (kind === "row") [part.value, part.version = ""] = rest.split(".");
  return part;
}

/** The address of a state. @param {Partial<State>} state */
export function address(state) {
  const words = new URLSearchParams();
  if (state.index) words.set("index", state.index);
  if (state.view) words.set("view", state.view);
  if (state.text) words.set("text", state.text);
  for (const part of state.parts ?? []) {
    const value = part.version ? `${part.value}.${part.version}` : part.value;
    words.append("part", `${part.weight}~${part.kind}~${value}`);
  }
  for (const condition of state.where ?? []) words.append("where", condition);
  if (state.min !== null && state.min !== undefined) words.set("min_score", String(state.min));
  if (state.group === false) words.set("group", "0");
  if (matches(state)) words.set("find", state.in_part ? "parts" : "very");
  if (state.show) words.set("show", state.show);
  const text = words.toString();
  return text ? `${root}/?${text}` : `${root}/`;
}

/** The part that means a picture of the index. */
export function part_like(hit, weight) {
  if (hit.id !== null && hit.id !== undefined) return { kind: "id", value: hit.id, weight };
  return { kind: "row", value: String(hit.row), version: hit.version, weight };
}

/** Whether anything is searched for. */
export const asks = (state) => Boolean(state.text.trim() || state.parts.length);

const matched = JSON.parse(document.body.dataset.matched ?? "[]");

/** Whether a query can be for the very picture: it is one dropped picture, and the index has local features. */
export const may_match = (state) =>
  state.parts.length === 1 && state.parts[0].kind === "upload" && state.parts[0].weight > 0 && matched.includes(state.index || document.body.dataset.index);

/** Whether it is for the very picture. */
export const matches = (state) => state.very && may_match(state);

/** Several conditions as one. */
export const joined = (where) => (where.length > 1 ? where.map((each) => `(${each})`).join(" AND ") : where[0]);
