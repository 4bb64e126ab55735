// The list of a report: queries of one run or of two, or questions with their answers under several conditions.
// Texts become text nodes only; nothing here parses markup.
"use strict";
const PER_PAGE = 25;
const [GOLD_READ, GOLD_FOUND, GOLD_MISSED, NO_GOLD] = [0, 1, 2, 3];
const HIT_STATES = ["not read", "read", "left out to fit"];
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const signed = (value) => `${Number(value.toFixed(1)) ? (value > 0 ? "+" : "−") : ""}${Math.abs(value).toFixed(1)}`;

openPage();

// Unpacks the data and shows the list; only then are the controls there to be used.
async function openPage() {
  let data;
  try {
    data = await unpack("data");
  } catch (error) {
    at("status").textContent = `The data cannot be opened: ${error.message}. This browser may be too old (it needs DecompressionStream).`;
    document.documentElement.dataset.ready = "failed";
    return;
  }
  at("controls").hidden = false;
  showList(data);
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

// Returns the function that shows a list and says a note on it; `entry` makes the element of an item.
function pagedList(words, entry) {
  let page = 0, found = [], note = "";
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  return (list, said) => { found = list; note = said; page = 0; draw(); };

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
    at("list").replaceChildren(...rows.map(entry));
    at("list").start = first + 1;
    at("status").textContent = rows.length
      ? `${number.format(first + 1)}–${number.format(first + rows.length)} of ${number.format(found.length)} ${words.items}${note}`
      : words.nothing;
    at("pager").hidden = pages === 1;
    at("place").textContent = `Page ${page + 1} of ${pages}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page >= pages - 1;
  }
}

function showList({ sides, pairs, filters, words, chunk, items }) {
  const asked = !sides[0].letter;  // questions with answers; else queries with their hits
  const two = !asked && sides.length === 2;
  const moves = pairs.length > 0;
  const several = items.some((item) => item.letters?.some((letters) => letters?.length > 1));
  const chunks = new Map();
  const show = pagedList(words, entry);
  items.forEach((item, place) => {
    item.place = place;
    item.scores ??= item.letters.map((letters) => letters && letters.filter((letter) => letter === item.answer).length / letters.length);
  });

  // before and after: an item's scores on the two sides that are compared; null where a side lacks it.
  const all = [`all ${words.items}`, true, () => true];
  const still = (test) => (i) => i.change === 0 && test(i.after);
  const inPart = (share) => share > 0 && share < 1;
  const SHOWN = offered([
    all, ["B better", two, (i) => i.change > 0], ["B worse", two, (i) => i.change < 0], ["equal", two, (i) => i.change === 0],
    ["both at 0", two, (i) => !i.before && !i.after],
    ["nDCG@10 above 0", !asked && !two, (i) => i.after > 0], ["nDCG@10 of 0", !asked && !two, (i) => i.after === 0],
    ["gained", asked && moves, (i) => i.change > 0], ["lost", asked && moves, (i) => i.change < 0],
    ["gained or lost", asked && moves, (i) => i.change !== null && i.change !== 0],
    ["unchanged, right", asked && moves, still((share) => share === 1)], ["unchanged, wrong", asked && moves, still((share) => share === 0)],
    ["unchanged, right in part", asked && moves && several, still(inPart)],
    ["right", asked && !moves, (i) => i.after === 1], ["wrong", asked && !moves, (i) => i.after === 0],
    ["right in part", asked && !moves && several, (i) => inPart(i.after)],
    ["with an unreadable answer", asked, (i) => i.letters.some((letters) => letters?.includes(""))],
  ]);
  const change = (a, b) => Math.abs(b.change) - Math.abs(a.change);
  const gain = (a, b) => b.change - a.change;
  const loss = (a, b) => a.change - b.change;
  const low = (side) => (a, b) => a[side] - b[side];
  const high = (side) => (a, b) => b[side] - a[side];
  const SORTS = offered([
    ["largest change", two, change], ["largest gain of B", two, gain], ["largest loss of B", two, loss],
    ["lowest nDCG@10 of A", two, low("before")], ["highest nDCG@10 of A", two, high("before")],
    ["lowest nDCG@10 of B", two, low("after")], ["highest nDCG@10 of B", two, high("after")],
    ["changes first", asked && moves, change], ["gained first", asked && moves, gain], ["lost first", asked && moves, loss],
    ["order of the data", true, null],
    ["lowest nDCG@10", !asked && !two, low("after")], ["highest nDCG@10", !asked && !two, high("after")],
    ["wrong first", asked && !moves, low("after")], ["right first", asked && !moves, high("after")],
  ]);
  const GOLD = offered([
    ["any", true, () => true], ["retrieved and read", true, (i) => i.gold === GOLD_READ],
    ["retrieved, but too low to be read", true, (i) => i.gold === GOLD_FOUND],
    ["not retrieved", true, (i) => i.gold === GOLD_MISSED], ["none known", true, (i) => i.gold === NO_GOLD],
  ]);

  fill("pair", pairs.map(([first, second]) => `${sides[first].name} → ${sides[second].name}`), pairs.length > 1);
  fill("show", Object.keys(SHOWN));
  fill("gold", Object.keys(GOLD), asked && items.some((item) => item.gold !== NO_GOLD));
  fill("sort", Object.keys(SORTS));
  for (const filter of filters) fill(filter.id, [filter.everything, ...filter.names], filter.names.length > 1);
  let waiting = 0;
  at("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 150); });
  for (const id of ["pair", "show", "gold", "sort", ...filters.map((filter) => filter.id)]) at(id).addEventListener("change", choose);
  at("whole").addEventListener("change", () => at("list").classList.toggle("longer", at("whole").checked));
  choose();

  function offered(rows) {
    return Object.fromEntries(rows.filter(([, fits]) => fits).map(([name, , value]) => [name, value]));
  }

  function fill(id, choices, isOffered = true) {
    at(id).append(...choices.map((text) => element("option", { value: text }, text)));
    at(id).parentElement.hidden = !isOffered;
  }

  function choose() {
    const [first, second] = pairs[at("pair").selectedIndex] ?? [null, 0];
    for (const item of items) {
      item.before = first === null ? null : item.scores[first];
      item.after = item.scores[second];
      item.change = item.before === null || item.after === null ? null : item.after - item.before;
    }
    const sought = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = filters.map((filter) => at(filter.id).selectedIndex - 1);
    const [shown, gold, order] = [SHOWN[at("show").value], GOLD[at("gold").value], SORTS[at("sort").value]];
    const found = items.filter((item) => shown(item) && gold(item) && holds(item, sought)
      && chosen.every((value, which) => value < 0 || item.parts[which] === value));
    const count = (test) => number.format(found.filter(test).length);
    if (order) found.sort(order);
    show(found, asked && moves ? `: ${count((i) => i.change > 0)} gained, ${count((i) => i.change < 0)} lost` : "");
  }

  function holds(item, sought) {
    if (!sought.length) return true;
    item.haystack ??= [item.id, ...item.texts.filter(Boolean), ...(item.options ?? [])].join("\n").toLowerCase();
    return sought.every((word) => item.haystack.includes(word));
  }

  function entry(item) {
    const names = item.parts.map((value, which) => filters[which].names[value]).filter(Boolean).reverse();
    const title = element("h3", {},
      element("span", { class: "identity" }, [...new Set([...names, item.id])].join(" · "), ...moved(item)),
      element("span", { class: "preview" }, (item.texts.find(Boolean) ?? words.unknown).slice(0, 300)));
    const details = element("details", {}, element("summary", {}, title, element("p", { class: "marks" }, ...marks(item))));
    details.addEventListener("toggle", () => { if (details.open) open(details, item); });
    return element("li", {}, details);
  }

  function moved(item) {
    if (!asked || !item.change) return [];
    return [" ", element("span", { class: `badge ${item.change > 0 ? "gold" : "loss"}` }, item.change > 0 ? "gained" : "lost")];
  }

  function marks(item) {
    const mark = (title, text) => element("span", {}, element("small", {}, title), text);
    const cells = item.scores.flatMap((score, side) => {
      if (!asked) return [mark(two ? sides[side].letter : "nDCG@10", score.toFixed(1))];
      const letters = item.letters[side];
      if (!letters) return [];
      return [mark(sides[side].name, letters.length > 1 ? `${Math.round(score * letters.length)} of ${letters.length} right` : verdict(item, letters[0]))];
    });
    return two ? [...cells, mark("B − A", signed(item.change))] : cells;
  }

  function verdict(item, letter) {
    return letter ? `${letter} ${letter === item.answer ? "right" : "wrong"}` : "unreadable";
  }

  // Takes what an item shows out of its chunk, which is unpacked once.
  async function open(details, item) {
    if (details.childElementCount > 1) return;
    const body = element("div", { class: "body" }, "Opening …");
    details.append(body);
    const place = Math.floor(item.place / chunk);
    if (!chunks.has(place)) chunks.set(place, unpack(`texts-${place}`));
    const { ids, texts, items: opened } = await chunks.get(place);
    const shown = opened[item.place % chunk];
    const passage = (index) => [element("span", { class: "name" }, ids[index]), texts[index]];
    const tables = shown.hits.map((hits, side) => hitTable(hits, side, passage));
    const parts = [written(item), searched(shown), gold(shown, passage),
      tables.length ? element("div", { class: tables.length > 1 ? "pair" : "" }, ...tables) : null,
      asked ? answers(item, shown) : null];
    body.replaceChildren(...parts.filter(Boolean));
  }

  function written(item) {
    const known = item.texts.map((text, side) => [text, side]).filter(([text]) => text);
    if (!known.length) return null;
    const blocks = known.map(([text, side]) => element("div", {},
      element("h4", {}, asked ? "Question" : item.texts.length > 1 ? `Query of ${sides[side].letter}` : "Query"),
      element("p", { class: "text" }, text), ...(asked ? [element("ul", { class: "choices" }, ...choices(item))] : [])));
    return element("div", { class: known.length > 1 ? "pair" : "" }, ...blocks);
  }

  function choices(item) {
    return item.options.map((text, place) => {
      const letter = String.fromCharCode(65 + place);
      const right = letter === item.answer;
      const chosen = item.letters.flatMap((letters, side) => {
        const times = letters?.filter((other) => other === letter).length ?? 0;
        const often = letters?.length > 1 ? ` ${times} of ${letters.length}` : "";
        return times ? [" ", element("span", { class: "badge" }, `chosen${often}: ${sides[side].name}`)] : [];
      });
      return element("li", { class: right ? "is-right" : "" }, element("b", {}, `${letter}.`), ` ${text}`,
        ...(right ? [" ", element("span", { class: "badge gold" }, "right answer")] : []), ...chosen);
    });
  }

  function searched({ query }) {
    if (!query) return null;
    const text = query === 1 ? "The question with its options." : query;
    return element("div", {}, element("h4", {}, "Searched with"), element("p", { class: "text" }, text));
  }

  // Of a query all gold documents, best rank first; of a question those that are not among the hits.
  function gold(shown, passage) {
    const best = ([, ranks]) => Math.min(...ranks.map((rank) => rank || Infinity));
    const listed = asked ? shown.gold.filter((one) => best(one) === Infinity) : [...shown.gold].sort((a, b) => best(a) - best(b) || 0);
    if (!shown.gold.length) return null;
    if (!listed.length) return element("p", { class: "how" }, "Every gold passage is among the hits below.");
    const entries = listed.map(([place, ranks]) => {
      const [name, text] = passage(place);
      return element("li", {}, name, ...(asked ? [] : [element("span", { class: "ranks" }, ranks.map(rankText).join(", "))]), ...snippet(text));
    });
    const list = (some) => element("ul", { class: "gold-list" }, ...some);
    const more = entries.length > 5 ? [element("details", {}, element("summary", {}, `${entries.length - 5} more`), list(entries.slice(5)))] : [];
    const title = asked ? `Gold passages not retrieved (${entries.length} of ${shown.gold.length})` : `Gold documents (${entries.length})`;
    return element("div", {}, element("h4", {}, title), list(entries.slice(0, 5)), ...more);
  }

  function rankText(rank, side) {
    return `${two ? `${sides[side].letter} ` : ""}${rank ? `rank ${number.format(rank)}` : "not found"}`;
  }

  // mark: of two runs the rank in the other, of a question whether the reader had the passage.
  function hitTable(hits, side, passage) {
    const move = side ? "Move" : "In B";
    const heads = ["Rank", ...(two ? [move] : []), words.passage, "Score"];
    const caption = two
      ? element("span", { class: `run run-${side}` }, element("span", { class: "letter" }, sides[side].letter), ` ${sides[side].name}`)
      : words.hits;
    const rows = hits.map(([place, score, isGold, mark], row) => {
      const [name, text] = passage(place);
      const badges = [isGold ? ["gold", "badge gold"] : null, asked ? [HIT_STATES[mark], "badge"] : null].filter(Boolean);
      return element("tr", { class: isGold ? "is-gold" : "" }, element("th", { scope: "row" }, String(row + 1)),
        ...(two ? [moveCell(row + 1, mark, side)] : []),
        element("td", {}, name, ...badges.flatMap(([word, kind]) => [" ", element("span", { class: kind }, word)]), ...snippet(text)),
        element("td", { class: "number score" }, String(score)));
    });
    if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: String(heads.length) }, "No hit.")));
    const columns = heads.map((text) => element("th", { scope: "col", class: { Score: "number", [move]: "move" }[text] }, text));
    return element("table", { class: "hits" }, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...columns)), element("tbody", {}, ...rows));
  }

  // How a hit moves from run A to run B. An arrow for the eye, words for a screen reader.
  function moveCell(rank, other, side) {
    const [from, to] = side ? [other, rank] : [rank, other];
    const way = to < from ? "up" : "down";
    const [sign, said] = !other ? [side ? "new" : "gone", `not found by ${side ? "A" : "B"}`]
      : from === to ? ["=", "the same rank in both"]
      : [`${way === "up" ? "▲" : "▼"} ${number.format(Math.abs(from - to))}`, `${way} by ${Math.abs(from - to)}, from rank ${from} in A to ${to} in B`];
    return element("td", { class: `move${other && to < from ? " up" : ""}`, title: said },
      element("span", { "aria-hidden": "true" }, sign), element("span", { class: "hidden" }, said));
  }

  // A passage that no reader had has no text on the page; of queries the text could not be read.
  function snippet(text) {
    if (text === null && !words.unknown) return [];
    return [element("p", { class: "snippet" }, text === null ? words.unknown : text || "(empty)")];
  }

  function answers(item, shown) {
    const columns = shown.answers.flatMap((samples, side) => samples.length
      ? [element("div", {}, element("h4", {}, element("span", { class: `swatch run-${side}`, "aria-hidden": "true" }), ` ${sides[side].name}`),
          ...samples.map((answer, sample) => given(item, answer, item.letters[side][sample], samples.length > 1 ? sample + 1 : 0)))]
      : []);
    return element("div", { class: "columns" }, ...columns);
  }

  function given(item, answer, letter, sample) {
    const facts = [
      letter ? `read by “${answer.stage}”` : `${answer.stage}${answer.guess ? `; guessed ${answer.guess}` : ""}`,
      answer.finish === "length" ? "cut at the token limit" : "",
      answer.read ? `${answer.read} passage${answer.read > 1 ? "s" : ""} read${answer.dropped ? `, ${answer.dropped} left out to fit` : ""}` : "",
      `${number.format(answer.tokens[0])} tokens in, ${number.format(answer.tokens[1])} out`,
    ].filter(Boolean).join(" · ");
    const parts = [
      element("p", { class: "how" }, ...(sample ? [] : [element("strong", {}, verdict(item, letter)), " · "]), facts),
      ...(answer.error ? [element("p", { class: "how" }, `Error: ${answer.error}`)] : []),
      element("p", { class: "text completion" }, answer.text || "(empty)"),
    ];
    if (!sample) return element("div", {}, ...parts);
    return element("details", { open: sample === 1 ? "open" : "" }, element("summary", {}, `Sample ${sample}: ${verdict(item, letter)}`), ...parts);
  }
}
