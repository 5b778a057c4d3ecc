// Making elements without markup, so that a text is never read as HTML.

/** The first element that a selector finds, which the page has. */
export const $ = (selector, within = document) => within.querySelector(selector);

/** Make an element. Properties starting with "on" are listeners, `text` is its text, the others are attributes. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Make an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** One of the icons that the page has. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button with an icon and, unless `quiet`, its label beside it. */
export function button(label, name, onclick, { quiet = false, ...properties } = {}) {
  const shown = quiet ? { "aria-label": label, title: label } : {};
  return h("button", { type: "button", onclick, ...shown, ...properties }, name ? icon(name) : null, quiet ? null : label);
}

const units = ["B", "kB", "MB", "GB", "TB"];

/** 2345678 -> "2.3 MB" */
export function bytes(count) {
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit++) count /= 1000;
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export const number = (value) => value.toLocaleString("en");

/** "1 picture", "2 pictures" */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** "45 points", "45 points, mirrored": of a match */
export const points = (hit) => counted(hit.inliers, "point") + (hit.mirrored ? ", mirrored" : "");

/** The part of a match's picture that the dropped one shows: "20–60 % × 0–45 %"; "" if the hit is no match. */
export function part_shown(hit) {
  if (!hit.region_fractions) return "";
  const percent = (value) => Math.round(100 * Math.min(1, Math.max(0, value)));
  const along = (axis) => {
    const found = hit.region_fractions.map((corner) => percent(corner[axis]));
    return `${Math.min(...found)}–${Math.max(...found)} %`;
  };
  return `${along(0)} × ${along(1)}`;
}

let toasting;

/** Show a message for four seconds; screen readers read it out. */
export function toast(text) {
  const place = $("#toast");
  // A modal dialog covers all that is outside it.
  (document.querySelector("dialog[open]") ?? document.body).append(place);
  place.textContent = text;
  place.hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => (place.hidden = true), 4000);
}

/** Put a text on the clipboard. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    prompt(`Your browser does not allow this page to copy. ${what}:`, text);
  }
}
