// The list of questions: filters by change, gold, group and subject; unpacks a question's texts when it is opened.
openPage((data) => {
  const { conditions, pairs } = data;
  const [GOLD_READ, GOLD_FOUND, GOLD_MISSED, NO_GOLD] = [0, 1, 2, 3];
  const HIT_STATES = ["not read", "read", "left out to fit"];
  const chunks = new Map();
  const several = data.questions.some((question) => question.letters.some((letters) => letters?.length > 1));
  const show = pagedList("questions", "No question fits.", item);
  data.questions.forEach((question, place) => {
    question.place = place;
    question.shares = question.letters.map((letters) =>
      letters && letters.filter((letter) => letter === question.answer).length / letters.length);
    question.unreadable = question.letters.some((letters) => letters?.includes(""));
  });

  const same = (test) => (q) => q.change === 0 && test(q.after);
  const inPart = (share) => share > 0 && share < 1;
  const unread = { "with an unreadable answer": (q) => q.unreadable };
  const SHOWN = pairs.length
    ? {
        "all questions": () => true, "gained": (q) => q.change > 0, "lost": (q) => q.change < 0,
        "gained or lost": (q) => q.change !== null && q.change !== 0,
        "unchanged, right": same((share) => share === 1), "unchanged, wrong": same((share) => share === 0),
        ...(several ? { "unchanged, right in part": same(inPart) } : {}), ...unread,
      }
    : {
        "all questions": () => true, "right": (q) => q.after === 1, "wrong": (q) => q.after === 0,
        ...(several ? { "right in part": (q) => inPart(q.after) } : {}), ...unread,
      };
  const SORTS = pairs.length
    ? {
        "changes first": (a, b) => Math.abs(b.change) - Math.abs(a.change), "gained first": (a, b) => b.change - a.change,
        "lost first": (a, b) => a.change - b.change, "order of the data": null,
      }
    : { "order of the data": null, "wrong first": (a, b) => a.after - b.after, "right first": (a, b) => b.after - a.after };
  const GOLD = {
    "any": () => true, "retrieved and read": (q) => q.gold === GOLD_READ,
    "retrieved, but too low to be read": (q) => q.gold === GOLD_FOUND, "not retrieved": (q) => q.gold === GOLD_MISSED,
    "none known": (q) => q.gold === NO_GOLD,
  };

  fill(at("pair"), pairs.map(([first, second]) => `${conditions[first]} → ${conditions[second]}`));
  fill(at("show"), Object.keys(SHOWN));
  fill(at("gold"), Object.keys(GOLD));
  fill(at("sort"), Object.keys(SORTS));
  fill(at("group"), ["all groups", ...data.groups.map(spaced)]);
  fill(at("subject"), ["all subjects", ...data.subjects.map(spaced)]);
  const offer = (id, offered) => { at(id).parentElement.hidden = !offered; };
  offer("pair", pairs.length > 1);
  offer("group", data.groups.length > 1);
  offer("subject", data.subjects.length > 1);
  offer("gold", data.questions.some((question) => question.gold !== NO_GOLD));
  whenChosen(choose, "pair", "show", "gold", "group", "subject", "sort");
  at("whole").addEventListener("change", () => at("list").classList.toggle("longer", at("whole").checked));
  choose();

  function spaced(name) { return name.replaceAll("_", " "); }

  function choose() {
    const [first, second] = pairs[at("pair").selectedIndex] ?? [null, 0];
    for (const question of data.questions) {
      const before = first === null ? null : question.shares[first];
      question.after = question.shares[second];
      question.change = before === null || question.after === null ? null : question.after - before;
    }
    const words = wordsSought();
    const group = at("group").selectedIndex - 1;
    const subject = at("subject").selectedIndex - 1;
    const [shown, gold, order] = [SHOWN[at("show").value], GOLD[at("gold").value], SORTS[at("sort").value]];
    const found = data.questions.filter((q) => (group < 0 || q.group === group) && (subject < 0 || q.subject === subject)
      && shown(q) && gold(q) && holds(q, words));
    const count = (test) => number.format(found.filter(test).length);
    if (order) found.sort(order);
    show(found, pairs.length ? `: ${count((q) => q.change > 0)} gained, ${count((q) => q.change < 0)} lost` : "");
  }

  function holds(question, words) {
    if (!words.length) return true;
    question.haystack ??= [question.id, question.text, ...question.options].join("\n").toLowerCase();
    return words.every((word) => question.haystack.includes(word));
  }

  function item(question) {
    const parts = [data.subjects[question.subject], data.groups[question.group]].filter(Boolean).map(spaced);
    const title = element("h3", {},
      element("span", { class: "identity" }, [...new Set([...parts, question.id])].join(" · "), ...change(question)),
      element("span", { class: "preview" }, question.text.slice(0, 300)));
    const marks = element("p", { class: "marks" }, ...question.letters.flatMap((letters, side) => letters ? [mark(question, letters, side)] : []));
    const details = element("details", {}, element("summary", {}, title, marks));
    details.addEventListener("toggle", () => { if (details.open) open(details, question); });
    return element("li", {}, details);
  }

  function change(question) {
    if (!question.change) return [];
    return [" ", element("span", { class: `badge ${question.change > 0 ? "gold" : "loss"}` }, question.change > 0 ? "gained" : "lost")];
  }

  function mark(question, letters, side) {
    const right = letters.filter((letter) => letter === question.answer).length;
    return element("span", {}, element("small", {}, conditions[side]),
      letters.length > 1 ? `${right} of ${letters.length} right` : verdict(question, letters[0]));
  }

  function verdict(question, letter) {
    return letter ? `${letter} ${letter === question.answer ? "right" : "wrong"}` : "unreadable";
  }

  // Takes the texts of a question out of its chunk, which is unpacked once.
  async function open(details, question) {
    if (details.childElementCount > 1) return;
    const body = element("div", { class: "body" }, "Opening …");
    details.append(body);
    const chunk = Math.floor(question.place / data.chunk);
    if (!chunks.has(chunk)) chunks.set(chunk, unpack(`texts-${chunk}`));
    const { ids, texts, questions } = await chunks.get(chunk);
    const shown = questions[question.place % data.chunk];
    const parts = [whole(question), searched(shown), hits(shown, ids, texts), gold(shown, ids, texts), answers(question, shown)];
    body.replaceChildren(...parts.filter(Boolean));
  }

  function whole(question) {
    const options = question.options.map((text, place) => {
      const letter = String.fromCharCode(65 + place);
      const isRight = letter === question.answer;
      const chosen = question.letters.flatMap((letters, side) => {
        const times = letters ? letters.filter((other) => other === letter).length : 0;
        const often = letters?.length > 1 ? ` ${times} of ${letters.length}` : "";
        return times ? [" ", element("span", { class: "badge" }, `chosen${often}: ${conditions[side]}`)] : [];
      });
      return element("li", { class: isRight ? "is-right" : "" }, element("b", {}, `${letter}.`), ` ${text}`,
        ...(isRight ? [" ", element("span", { class: "badge gold" }, "right answer")] : []), ...chosen);
    });
    return element("div", {}, element("h4", {}, "Question"), element("p", { class: "text" }, question.text),
      element("ul", { class: "choices" }, ...options));
  }

  function searched(shown) {
    if (!shown.query) return null;
    const text = shown.query === 1 ? "The question with its options." : shown.query;
    return element("div", {}, element("h4", {}, "Searched with"), element("p", { class: "text" }, text));
  }

  function hits(shown, ids, texts) {
    if (!shown.hits.length) return null;
    const rows = shown.hits.map(([place, score, isGold, state], row) => element("tr", isGold ? { class: "is-gold" } : {},
      element("th", { scope: "row" }, String(row + 1)),
      element("td", {}, element("span", { class: "name" }, ids[place]),
        ...(isGold ? [" ", element("span", { class: "badge gold" }, "gold")] : []),
        " ", element("span", { class: "badge" }, HIT_STATES[state]), ...snippet(texts[place])),
      element("td", { class: "number score" }, String(score))));
    const columns = ["Rank", "Passage", "Score"].map((text) => element("th", { scope: "col", class: text === "Score" ? "number" : "" }, text));
    return element("table", { class: "hits" }, element("caption", {}, "Retrieved"),
      element("thead", {}, element("tr", {}, ...columns)), element("tbody", {}, ...rows));
  }

  // Gold passages are shown with the hits where they are among them.
  function gold(shown, ids, texts) {
    if (!shown.gold.length) return null;
    const missed = shown.gold.filter(([, rank]) => !rank);
    if (!missed.length) return element("p", { class: "how" }, "Every gold passage is among the hits above.");
    const text = `Gold passages not retrieved (${missed.length} of ${shown.gold.length})`;
    const entries = missed.map(([place]) => element("li", {}, element("span", { class: "name" }, ids[place]), ...snippet(texts[place])));
    return element("div", {}, element("h4", {}, text), element("ul", { class: "gold-list" }, ...entries));
  }

  function snippet(text) {
    return text === null ? [] : [element("p", { class: "snippet" }, text || "(empty)")];
  }

  function answers(question, shown) {
    const columns = shown.answers.flatMap((samples, side) => samples.length
      ? [element("div", {}, element("h4", {}, swatch(side), ` ${conditions[side]}`), ...samples.map((answer, sample) =>
          given(question, answer, question.letters[side][sample], samples.length > 1 ? sample + 1 : 0)))]
      : []);
    return element("div", { class: "columns" }, ...columns);
  }

  function given(question, answer, letter, sample) {
    const how = letter ? `read by “${answer.stage}”` : `${answer.stage}${answer.guess ? `; guessed ${answer.guess}` : ""}`;
    const facts = [
      how, answer.finish === "length" ? "cut at the token limit" : "",
      answer.read ? `${answer.read} passage${answer.read > 1 ? "s" : ""} read${answer.dropped ? `, ${answer.dropped} left out to fit` : ""}` : "",
      `${number.format(answer.tokens[0])} tokens in, ${number.format(answer.tokens[1])} out`,
    ].filter(Boolean).join(" · ");
    const parts = [
      element("p", { class: "how" }, ...(sample ? [] : [element("strong", {}, verdict(question, letter)), " · "]), facts),
      ...(answer.error ? [element("p", { class: "how" }, `Error: ${answer.error}`)] : []),
      element("p", { class: "text completion" }, answer.text || "(empty)"),
    ];
    if (!sample) return element("div", {}, ...parts);
    return element("details", sample === 1 ? { open: "open" } : {}, element("summary", {}, `Sample ${sample}: ${verdict(question, letter)}`), ...parts);
  }

  function swatch(side) {
    return element("span", { class: `swatch run-${side}`, "aria-hidden": "true" });
  }
});
