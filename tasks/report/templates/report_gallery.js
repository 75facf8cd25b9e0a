// ---- gallery

const controls = ["query", "sort", "show", "layer"].map(byId).filter(Boolean);
const cards = byId("cards");
const texts = filters.map((filter) => filter.w.map((word) => word[0].toLowerCase()));
const firstWord = (filter) => (!filter.r && filter.w.length ? filter.w[0][0] : "\uffff");
const byPlace = (a, b) => filters[a].l - filters[b].l || filters[a].f - filters[b].f;
const falling = (key) => (a, b) => (filters[b][key] ?? -Infinity) - (filters[a][key] ?? -Infinity) || byPlace(a, b);
const collator = new Intl.Collator("en");
const orders = {
  confidence: (a, b) => filters[b].c - filters[a].c || (filters[b].a ?? 0) - (filters[a].a ?? 0) || filters[b].p - filters[a].p || byPlace(a, b),
  filter: byPlace,
  word: (a, b) => collator.compare(firstWord(filters[a]), firstWord(filters[b])) || falling("c")(a, b),
  threshold: falling("t"),
  images: falling("n"),
  recall: falling("j"),
  f1: falling("d"),
};
const kinds = {
  all: () => true,
  explained: (filter) => !filter.r,
  unexplained: (filter) => Boolean(filter.r),
  novel: (filter) => !filter.r && filter.w.some((word) => word[3] && word[4]),
  several: (filter) => filter.m > 1,
};
let shown = [];
let drawn = 0;

const drawChip = ([word, share, , novel, significant], isMatch) => {
  const chip = make("li", undefined, (significant ? "chip" : "chip weak") + (isMatch ? " match" : ""));
  chip.append(fromData("span", word + (novel ? "*" : "")), make("small", percent(share)));
  return chip;
};
const drawGuess = (filter) => {
  const line = make("p", undefined, "guess");
  line.append("best guess: ", fromData("b", filter.g));
  return line;
};
const drawCard = (place) => {
  const filter = filters[place];
  const card = make("article", undefined, filter.r ? "card unexplained" : "card");
  const head = make("h3");
  const link = make("a", undefined, "open");
  link.href = anchorOf(filter);
  link.append(make("span", "Filter ", "sr"), make("span", String(filter.f), "number"), fromData("span", layerOf(filter), "layer"));
  head.append(link);
  if (!filter.r) {
    const confidence = make("span", undefined, "confidence");
    const meter = make("meter");
    meter.value = filter.c;
    meter.setAttribute("aria-label", "confidence");
    confidence.append(meter, filter.c.toFixed(2));
    confidence.title = "confidence of the first word";
    head.append(confidence);
  }
  card.append(head);
  const query = byId("query").value.trim().toLowerCase();
  const list = make("ul", undefined, "chips");
  filter.w.forEach((word, i) => {
    const isMatch = Boolean(query) && texts[place][i].includes(query);
    if ((i < CARD_WORDS && (filter.r ? !filter.g : word[4])) || isMatch) list.append(drawChip(word, isMatch));
  });
  card.append(list);
  if (filter.g) card.append(drawGuess(filter));
  if (filter.r) card.append(make("p", "unexplained: " + filter.r, "reason"));
  if (filter.s) card.append(make("p", "saturated: many top pictures are at its highest value", "badge"));
  if (filter.m > 1) card.append(make("p", `${filter.m} meanings`, "badge"));
  const strip = make("div", undefined, "strip");
  for (const entry of filter.i) strip.append(drawShot(entry));
  card.append(strip);
  return card;
};
const end = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || drawn >= shown.length) return;
  drawMore(drawn + PAGE);
  watchEnd();
}, { rootMargin: "900px" });
// An observer speaks only of changes; the end may still be in sight after a page of cards.
const watchEnd = () => {
  end.unobserve(byId("more"));
  end.observe(byId("more"));
};
const drawMore = (upTo) => {
  const last = Math.min(upTo, shown.length);
  const part = document.createDocumentFragment();
  for (; drawn < last; drawn += 1) part.append(drawCard(shown[drawn]));
  cards.append(part);
};
const update = () => {
  const value = Object.fromEntries(controls.map((control) => [control.id, control.value]));
  const query = value.query.trim().toLowerCase();
  const isOfLayer = (filter) => !value.layer || filter.l === Number(value.layer);
  const isFound = (place) => !query || String(filters[place].f) === query || texts[place].some((word) => word.includes(query));
  shown = [];
  filters.forEach((filter, place) => {
    if (kinds[value.show](filter) && isOfLayer(filter) && isFound(place)) shown.push(place);
  });
  shown.sort(orders[value.sort]);
  cards.replaceChildren();
  drawn = 0;
  drawMore(PAGE);
  watchEnd();
  byId("count").textContent = `${number.format(shown.length)} of ${number.format(filters.length)} filters`;
  byId("empty").hidden = shown.length > 0;
  byId("print-note").textContent =
    shown.length > MOST_PRINTED
      ? `Printed: the first ${MOST_PRINTED} of ${number.format(shown.length)} filters shown.`
      : `Printed: all ${number.format(shown.length)} filters shown.`;
};

// ---- downloads: the filters as they are shown

const found = (filter) => (filter.r ? [] : filter.w.filter((word) => word[4]));
const toRecord = (place) => {
  const filter = filters[place];
  return {
    layer: layerOf(filter),
    filter: filter.f,
    explained: !filter.r,
    reason: filter.r,
    confidence: filter.c,
    guess: filter.g,
    saturated: Boolean(filter.s),
    threshold: filter.t,
    pictures_above_threshold: filter.n,
    num_meanings: filter.m,
    recall: filter.j,
    f1: filter.d,
    words: found(filter).map(([word, share, confidence, novel]) => ({ word, share, confidence, novel: Boolean(novel) })),
  };
};
// A spreadsheet would read text that begins like this as a formula.
const defuse = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : value);
const quote = (value) => {
  const text = String(defuse(value) ?? "");
  return /[",;\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};
const toCsv = (records) => {
  const flat = records.map(({ words, ...facts }) => ({
    ...facts,
    words: words.map((word) => word.word).join("; "),
    shares: words.map((word) => word.share).join("; "),
    novel_words: words.filter((word) => word.novel).map((word) => word.word).join("; "),
  }));
  const columns = Object.keys(flat[0] ?? { layer: "", filter: "", words: "" });
  return [columns, ...flat.map((record) => columns.map((column) => record[column]))].map((row) => row.map(quote).join(",") + "\r\n").join("");
};
const save = (text, type, name) => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
byId("csv").addEventListener("click", () => save(toCsv(shown.map(toRecord)), "text/csv;charset=utf-8", "filters.csv"));
byId("json").addEventListener("click", () => {
  const content = { audit: data.audit, filters: shown.map(toRecord) };
  save(JSON.stringify(content, null, 1) + "\n", "application/json", "filters.json");
});
