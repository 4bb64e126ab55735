// What the lists of all pages share: packed data, pages of 25, elements.
// Texts become text nodes only; nothing here parses markup.
"use strict";
const PER_PAGE = 25;
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// Unpacks the data and hands it to `start`; only then are the controls there to be used.
async function openPage(start) {
  let data;
  try {
    data = await unpack("data");
  } catch (error) {
    at("status").textContent = `The data cannot be opened: ${error.message}. This browser may be too old (it needs DecompressionStream).`;
    document.documentElement.dataset.ready = "failed";
    return;
  }
  at("controls").hidden = false;
  start(data);
  document.documentElement.dataset.ready = "yes";
}

// Takes JSON out of an element that holds it as base64 of a zlib stream.
async function unpack(id) {
  const base64 = at(id).textContent;
  const bytes = Uint8Array.fromBase64
    ? Uint8Array.fromBase64(base64)
    : Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const value = await new Response(stream).json();
  at(id).remove();
  return value;
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fill(select, choices) {
  select.append(...choices.map((text) => element("option", { value: text }, text)));
}

function whenChosen(choose, ...selects) {
  let waiting = 0;
  at("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 150); });
  for (const id of selects) at(id).addEventListener("change", choose);
}

function wordsSought() {
  return at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
}

// Returns the function that shows a list and says a note on it; `item` makes an entry.
function pagedList(noun, nothing, item) {
  let page = 0, found = [], note = "";
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  return (list, said = "") => { found = list; note = said; page = 0; draw(); };

  function turn(step) {
    page += step;
    draw();
    at("queries").focus({ preventScroll: true });
    at("controls").scrollIntoView();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const first = page * PER_PAGE;
    const rows = found.slice(first, first + PER_PAGE);
    at("list").replaceChildren(...rows.map(item));
    at("list").start = first + 1;
    at("status").textContent = rows.length
      ? `${number.format(first + 1)}–${number.format(first + rows.length)} of ${number.format(found.length)} ${noun}${note}`
      : nothing;
    at("pager").hidden = pages === 1;
    at("place").textContent = `Page ${page + 1} of ${pages}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page >= pages - 1;
  }
}
