// ---- gallery

const controls = ["query", "sort", "show", "reviewed", "layer"].map(byId).filter(Boolean);
const cards = byId("cards");
const texts = filters.map((filter) => filter.w.map((word) => word[0].toLowerCase()));
// What is searched: parts of words, and in quotes whole words.
const terms = (text = byId("query").value) => [...text.toLowerCase().matchAll(/"([^"]+)("?)|\S+/g)].map(([text, quoted, end]) => ({ text: quoted ?? text, isWhole: end === '"' }));
const fits = (word, { text, isWhole }) => (isWhole ? word === text : word.includes(text));
// Every term has to be found, in whatever order: in a word, as the filter's number, or in its layer's name.
const isTermFound = (place, term, words) => {
  if (/^\d+$/.test(term.text)) return String(filters[place].f) === term.text || words.includes(term.text);
  return words.some((word) => fits(word, term)) || (data.layers.length > 1 && fits(layerOf(filters[place]).toLowerCase(), term));
};
const isFound = (place, wanted, words = texts[place]) => wanted.every((term) => isTermFound(place, term, words));
// How a filter has what is searched: as words that it says, as its best guess, or among the near words only.
const WAYS = ["by a word of theirs", "by their best guess", "by a near word only"];
const said = filters.map((filter) => (filter.r ? [filter.g ?? ""] : filter.w.filter((word) => word[4]).map((word) => word[0])).map((word) => word.toLowerCase()));
const wayOf = (place, wanted) => (!isFound(place, wanted, said[place]) ? 2 : filters[place].r ? 1 : 0);
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
  card.dataset.place = place;
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
  const wanted = terms();
  const list = make("ul", undefined, "chips");
  filter.w.forEach((word, i) => {
    const isMatch = wanted.some((term) => fits(texts[place][i], term));
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
  drawMark(card, place);
  return card;
};
// Cards are drawn ahead of somebody who scrolls down to them. What is on the screen, or below it for somebody who is
// past the gallery, is never pushed away: there the button asks for more.
const more = byId("more");
const end = new IntersectionObserver((entries) => {
  const { isIntersecting, boundingClientRect } = entries.at(-1);
  if (!isIntersecting || boundingClientRect.top < window.innerHeight || drawn >= shown.length) return;
  drawMore(drawn + PAGE);
  watchEnd();
}, { rootMargin: "0px 0px 900px" });
// An observer speaks only of changes; the end may still be near after a page of cards.
const watchEnd = () => {
  end.unobserve(more);
  end.observe(more);
};
more.addEventListener("click", () => {
  const first = drawn;
  drawMore(drawn + PAGE);
  watchEnd();
  cards.children[first].querySelector("a.open").focus({ preventScroll: true });
});
const drawMore = (upTo) => {
  const last = Math.min(upTo, shown.length);
  const part = document.createDocumentFragment();
  for (; drawn < last; drawn += 1) part.append(drawCard(shown[drawn]));
  cards.append(part);
  more.hidden = drawn >= shown.length;
  more.textContent = `${number.format(shown.length - drawn)} more filters`;
};
const update = () => {
  const value = Object.fromEntries(controls.map((control) => [control.id, control.value]));
  const wanted = terms();
  const isOfLayer = (filter) => !value.layer || filter.l === Number(value.layer);
  shown = [];
  filters.forEach((filter, place) => {
    if (kinds[value.show](filter) && hasVerdict[value.reviewed](place) && isOfLayer(filter) && isFound(place, wanted)) shown.push(place);
  });
  const ways = new Map(shown.map((place) => [place, wanted.length ? wayOf(place, wanted) : 0]));
  shown.sort((a, b) => (value.sort === "confidence" && ways.get(a) - ways.get(b)) || orders[value.sort](a, b));
  cards.replaceChildren();
  drawn = 0;
  drawMore(PAGE);
  watchEnd();
  const counts = WAYS.map((way, i) => [shown.filter((place) => ways.get(place) === i).length, way]).filter(([count]) => count);
  const split = wanted.length && shown.length && counts[0][0] < shown.length ? ": " + counts.map(([count, way]) => `${number.format(count)} ${way}`).join(", ") : "";
  byId("count").textContent = `${number.format(shown.length)} of ${number.format(filters.length)} filters${split}`;
  byId("empty").hidden = shown.length > 0;
  byId("print-note").textContent =
    shown.length > MOST_PRINTED
      ? `Printed: the first ${MOST_PRINTED} of ${number.format(shown.length)} filters shown.`
      : `Printed: all ${number.format(shown.length)} filters shown.`;
};

// ---- the view: what is searched, sorted and shown, in the address, so that it can be sent

const VIEW = "#view?";
const describeView = () => {
  const view = new URLSearchParams();
  for (const control of controls) if (control.value && control.value !== (control.options ? control.options[0].value : "")) view.set(control.id, control.value);
  return String(view) && VIEW + view;
};
const readView = (hash) => {
  if (!hash.startsWith(VIEW)) return false;
  const view = new URLSearchParams(hash.slice(VIEW.length));
  for (const control of controls) {
    const wanted = view.get(control.id) ?? (control.options ? control.options[0].value : "");
    if (!control.options || [...control.options].some((option) => option.value === wanted)) control.value = wanted;
  }
  return true;
};
const changed = () => {
  update();
  record("replaceState", null, describeView() || location.pathname + location.search);
};

// ---- the index: which words there are, and of how many filters each is the first

const MOST_WORDS = matchMedia("(max-width: 46rem)").matches ? 24 : 40;
const countWords = () => {
  const counts = new Map();
  for (const filter of filters) if (!filter.r && filter.w.length) counts.set(filter.w[0][0], (counts.get(filter.w[0][0]) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]));
};
const drawIndex = (counts, most) => {
  const list = byId("words").querySelector("ul");
  list.replaceChildren(...counts.slice(0, most).map(([word, count]) => {
    const item = make("li");
    const button = make("button", undefined, "chip");
    button.type = "button";
    button.append(fromData("span", word), make("small", number.format(count)));
    button.addEventListener("click", () => {
      byId("controls").reset();
      byId("query").value = word.includes('"') ? word : `"${word}"`;
      byId("show").value = "explained";
      changed();
      byId("controls").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    return item;
  }));
};
const allWords = countWords();
byId("words").hidden = !allWords.length;
byId("all-words").hidden = allWords.length <= MOST_WORDS;
byId("all-words").textContent = `all ${number.format(allWords.length)} words`;
byId("all-words").addEventListener("click", () => {
  drawIndex(allWords, allWords.length);
  byId("words").querySelector("ul").classList.add("all");
  byId("all-words").hidden = true;
});
drawIndex(allWords, MOST_WORDS);

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
// A spreadsheet would read text that begins like this as a formula. What is guarded already is guarded once more, so
// that text which is read again is what it was.
const defuse = (value) => (typeof value === "string" && /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? "'" + value : value);
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
