// The list of queries: filters, sorts, and fills a query when it is opened.
openPage((data) => {
  const two = data.runs.length === 2;
  const show = pagedList("queries", "No query fits.", item);
  for (const query of data.queries) {
    query.change = two ? query.scores[1] - query.scores[0] : 0;
  }

  const low = (side) => (a, b) => a.scores[side] - b.scores[side];
  const high = (side) => (a, b) => b.scores[side] - a.scores[side];
  const SORTS = two
    ? {
        "largest change": (a, b) => Math.abs(b.change) - Math.abs(a.change),
        "largest gain of B": (a, b) => b.change - a.change,
        "largest loss of B": (a, b) => a.change - b.change,
        "lowest nDCG@10 of A": low(0), "highest nDCG@10 of A": high(0),
        "lowest nDCG@10 of B": low(1), "highest nDCG@10 of B": high(1),
        "order of the data": null,
      }
    : { "order of the data": null, "lowest nDCG@10": low(0), "highest nDCG@10": high(0) };
  const SHOWN = two
    ? {
        "all queries": () => true, "B better": (q) => q.change > 0, "B worse": (q) => q.change < 0,
        "equal": (q) => q.change === 0, "both at 0": (q) => !q.scores[0] && !q.scores[1],
      }
    : { "all queries": () => true, "nDCG@10 above 0": (q) => q.scores[0] > 0, "nDCG@10 of 0": (q) => q.scores[0] === 0 };

  fill(at("sort"), Object.keys(SORTS));
  fill(at("show"), Object.keys(SHOWN));
  fill(at("task"), ["all tasks", ...data.tasks]);
  whenChosen(choose, "task", "show", "sort");
  at("whole").addEventListener("change", () => at("list").classList.toggle("longer", at("whole").checked));
  choose();

  function choose() {
    const words = wordsSought();
    const task = at("task").selectedIndex - 1;
    const shown = SHOWN[at("show").value];
    const order = SORTS[at("sort").value];
    const found = data.queries.filter((query) =>
      (task < 0 || query.task === task) && shown(query) && holds(query, words));
    if (order) found.sort(order);
    show(found);
  }

  function holds(query, words) {
    if (!words.length) return true;
    query.haystack ??= [query.id, ...query.texts.filter(Boolean)].join("\n").toLowerCase();
    return words.every((word) => query.haystack.includes(word));
  }

  function item(query) {
    const text = query.texts[0] ?? query.texts[1];
    const identity = `${data.tasks.length > 1 ? `${data.tasks[query.task]} · ` : ""}${query.id}`;
    const title = element("h3", {},
      element("span", { class: "identity" }, identity),
      element("span", { class: "preview" }, text ? text.slice(0, 300) : "text not known"));
    const marks = element("p", { class: "marks" }, ...scores(query));
    const details = element("details", {}, element("summary", {}, title, marks));
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(body(query));
    });
    return element("li", {}, details);
  }

  function scores(query) {
    const cells = query.scores.map((score, side) =>
      element("span", {}, element("small", {}, two ? data.runs[side].letter : "nDCG@10"), score.toFixed(1)));
    if (two) cells.push(element("span", {}, element("small", {}, "B − A"), signed(query.change)));
    return cells;
  }

  function signed(value) {
    const text = Math.abs(value).toFixed(1);
    return text === "0.0" ? text : `${value > 0 ? "+" : "−"}${text}`;
  }

  function body(query) {
    const parts = [texts(query), gold(query)];
    const tables = query.hits.map((hits, side) => hitTable(hits, side));
    parts.push(element("div", { class: two ? "pair" : "" }, ...tables));
    return element("div", { class: "body" }, ...parts.filter(Boolean));
  }

  function texts(query) {
    const known = query.texts.map((text, side) => [text, side]).filter(([text]) => text);
    if (!known.length) return null;
    const blocks = known.map(([text, side]) => element("div", {},
      element("h4", {}, query.texts.length > 1 ? `Query of ${data.runs[side].letter}` : "Query"),
      element("p", { class: "text" }, text)));
    return element("div", { class: known.length > 1 ? "pair" : "" }, ...blocks);
  }

  function gold(query) {
    if (!query.gold.length) return null;
    const order = query.gold.map((place, row) => [place, query.goldRanks[row]]);
    order.sort((a, b) => (Math.min(...a[1].map(far)) - Math.min(...b[1].map(far))));
    const entries = order.map(([place, ranks]) => element("li", {},
      element("span", { class: "name" }, data.ids[place]),
      element("span", { class: "ranks" }, ranks.map(rankText).join(", ")),
      snippet(place)));
    const few = element("ul", { class: "gold-list" }, ...entries.slice(0, 5));
    const more = entries.length > 5
      ? element("details", {}, element("summary", {}, `${entries.length - 5} more`), element("ul", { class: "gold-list" }, ...entries.slice(5)))
      : null;
    return element("div", {}, element("h4", {}, `Gold documents (${entries.length})`), few, ...[more].filter(Boolean));
  }

  function far(rank) { return rank || Infinity; }

  function rankText(rank, side) {
    return `${two ? `${data.runs[side].letter} ` : ""}${rank ? `rank ${number.format(rank)}` : "not found"}`;
  }

  function hitTable(hits, side) {
    const run = data.runs[side];
    const head = ["Rank", ...(two ? [side ? "Move" : "In B"] : []), "Document", "Score"];
    const caption = two
      ? element("caption", {}, element("span", { class: `run run-${side}` }, element("span", { class: "letter" }, run.letter), ` ${run.name}`))
      : element("caption", {}, "First hits");
    const rows = hits.map(([place, score, isGold, other], row) => element("tr", isGold ? { class: "is-gold" } : {},
      element("th", { scope: "row" }, String(row + 1)),
      ...(two ? [move(row + 1, other, side)] : []),
      element("td", {}, element("span", { class: "name" }, data.ids[place]),
        ...(isGold ? [" ", element("span", { class: "badge gold" }, "gold")] : []), snippet(place)),
      element("td", { class: "number score" }, String(score))));
    if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: String(head.length) }, "No hit.")));
    const columns = head.map((text) => element("th", { scope: "col", class: text === "Score" ? "number" : text === "Move" || text === "In B" ? "move" : "" }, text));
    return element("table", { class: "hits" }, caption,
      element("thead", {}, element("tr", {}, ...columns)), element("tbody", {}, ...rows));
  }

  // How a hit moves from run A to run B. An arrow for the eye, words for a screen reader.
  function move(rank, other, side) {
    const [from, to] = side ? [other, rank] : [rank, other];
    let sign, words, kind = "";
    if (!other) {
      [sign, words] = side ? ["new", "not found by A"] : ["gone", "not found by B"];
    } else if (from === to) {
      [sign, words] = ["=", "the same rank in both"];
    } else {
      const up = to < from;
      kind = up ? " up" : "";
      sign = `${up ? "▲" : "▼"} ${number.format(Math.abs(from - to))}`;
      words = `${up ? "up" : "down"} by ${Math.abs(from - to)}, from rank ${from} in A to ${to} in B`;
    }
    return element("td", { class: `move${kind}`, title: words },
      element("span", { "aria-hidden": "true" }, sign), element("span", { class: "hidden" }, words));
  }

  function snippet(place) {
    const text = data.texts[place];
    return element("p", { class: "snippet" }, text === null ? "text not known" : text || "(empty)");
  }
});
