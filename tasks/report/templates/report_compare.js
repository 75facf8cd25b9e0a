// ---- similar filters, and two filters side by side

let pair = null; // of places, where two filters are compared
const PAIR = "#compare?";
const MOST_SUGGESTED = 8;
const nameOf = (place) => layerOf(filters[place]) + "-" + filters[place].f;
const anchorOfPair = ([one, other]) => PAIR + new URLSearchParams({ a: nameOf(one), b: nameOf(other) });
const pairOf = (hash) => {
  if (!hash.startsWith(PAIR)) return null;
  const asked = new URLSearchParams(hash.slice(PAIR.length));
  const both = ["a", "b"].map((key) => {
    const match = /^(.*)-(\d+)$/s.exec(asked.get(key) ?? "");
    return match ? places.get(match[1] + "\n" + Number(match[2])) ?? -1 : -1;
  });
  return both.every((place) => place >= 0) && both[0] !== both[1] ? both : null;
};
const linkTo = (address, text, className) => {
  const link = make("a", text, className);
  link.href = address;
  return link;
};
// What a filter is called, in a few words.
const sayWords = (filter) => {
  if (filter.r) return filter.g ? `best guess: ${filter.g}` : "unexplained";
  return found(filter).slice(0, CARD_WORDS).map((word) => word[0]).join(", ");
};
const near = new Map(); // place -> [place, correlation], of filters that were opened
const keepNear = (place, rest) => {
  near.set(place, (rest.near ?? []).map(([other, correlation]) => [places.get(layerOf(filters[place]) + "\n" + other), correlation]));
};

const addSimilar = (parent, filter, rest) => {
  const place = places.get(layerOf(filter) + "\n" + filter.f);
  keepNear(place, rest);
  drawSuggested();
  const list = make("ul", undefined, "similar");
  for (const [other, correlation] of near.get(place)) {
    const item = make("li");
    const compare = linkTo(anchorOfPair([place, other]), "compare");
    compare.setAttribute("aria-label", `Compare with filter ${filters[other].f}`);
    item.append(linkTo(anchorOf(filters[other]), `Filter ${filters[other].f}`), fromData("span", sayWords(filters[other]), "said"), make("small", correlation.toFixed(2)), compare);
    list.append(item);
  }
  const says = list.children.length
    ? "Those of this layer that answer the same pictures: Pearson's correlation of the highest activations over all pictures."
    : "No filter of this layer answers the same pictures.";
  addPart(parent, "Similar filters", make("p", says, "note"), list);
};

// ---- the second filter is chosen by the same search as in the gallery, or from those that are similar

// No form: a frame that may run scripts and nothing else, as MLflow's, does not submit one.
const picker = make("div", undefined, "picker");
picker.setAttribute("role", "search");
picker.hidden = true;
const wantedFilter = make("input");
wantedFilter.type = "search";
wantedFilter.autocomplete = "off";
wantedFilter.spellcheck = false;
const pickerLabel = make("label", "Compare with: words, layer or number ");
pickerLabel.append(wantedFilter);
const suggested = make("ul");
const numSuggested = make("output");
numSuggested.setAttribute("aria-live", "polite");
picker.append(pickerLabel, numSuggested, suggested);
bar.after(picker);

const suggest = () => {
  const wanted = terms(wantedFilter.value);
  if (!wanted.length) return (near.get(current) ?? []).map(([place]) => place);
  return filters.map((_, place) => place).filter((place) => place !== current && isFound(place, wanted)).sort(orders.confidence);
};
const drawSuggested = () => {
  if (picker.hidden) return;
  const all = suggest();
  suggested.replaceChildren(...all.slice(0, MOST_SUGGESTED).map((place) => {
    const item = make("li");
    const link = linkTo(anchorOfPair([current, place]), `Filter ${filters[place].f} `);
    link.append(fromData("span", sayWords(filters[place]), "said"));
    if (data.layers.length > 1) link.append(fromData("small", layerOf(filters[place])));
    item.append(link);
    return item;
  }));
  if (wantedFilter.value.trim()) numSuggested.textContent = `${number.format(all.length)} found${all.length > MOST_SUGGESTED ? `, the first ${MOST_SUGGESTED} shown` : ""}`;
  else numSuggested.textContent = all.length ? "similar filters" : "";
};
const togglePicker = (isOpen) => {
  if (!isOpen && picker.contains(document.activeElement)) sheet.focus();
  picker.hidden = !isOpen;
  comparing.setAttribute("aria-expanded", String(isOpen));
  if (!isOpen) return;
  sheet.scrollTop = 0;
  wantedFilter.value = "";
  drawSuggested();
  wantedFilter.focus();
};
const comparing = addButton("Compare", "Compare this filter with another one", () => togglePicker(picker.hidden));
comparing.setAttribute("aria-expanded", "false");
copy.before(comparing);
wantedFilter.addEventListener("input", drawSuggested);
wantedFilter.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const [first] = suggest();
  if (first !== undefined) openPair([current, first]);
});
// Escape leaves the field first, then the filter.
dialog.addEventListener("cancel", (event) => {
  if (picker.hidden) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  togglePicker(false);
  comparing.focus();
}, { capture: true });
onShow.push((place) => {
  if (place !== undefined) pair = null;
  togglePicker(false);
  comparing.hidden = Boolean(pair);
  for (const button of steps) button.hidden = Boolean(pair);
  body.classList.toggle("versus", Boolean(pair));
});

// ---- side by side

const drawSide = (place, rest, sharedPictures) => {
  const filter = filters[place];
  const side = make("section");
  const heading = make("h3");
  heading.append(linkTo(anchorOf(filter), `Filter ${filter.f}`), " ", fromData("small", layerOf(filter)));
  const list = make("ul", undefined, "chips");
  for (const word of filter.r ? [] : found(filter).slice(0, 5)) list.append(drawChip(word, false));
  side.append(heading, list);
  if (filter.g) side.append(drawGuess(filter));
  if (filter.r) side.append(make("p", "unexplained: " + filter.r, "reason"));
  const pictures = [...filter.i, ...rest.i];
  if (!pictures.length) {
    side.append(make("p", "No picture rises above the threshold.", "note"));
    return { side, turn: () => {} };
  }
  const { grid, scale, turn } = drawPictures(pictures, rest, ([picture, peak]) => String(peak) + (sharedPictures.has(picture) ? ", in both" : ""));
  side.append(grid, scale);
  return { side, turn };
};
const listFigures = (place) => {
  const filter = filters[place];
  const fixed = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));
  return [
    ["Confidence", filter.r ? "unexplained" : filter.c.toFixed(2)],
    ["AUROC of its first word", fixed(filter.a, 2)],
    ["Pictures above the threshold", number.format(filter.n)],
    ["Threshold", String(filter.t)],
    ["Meanings", String(filter.m)],
    ["Recall against masks", fixed(filter.j, 2)],
    ["F1 against masks", fixed(filter.d, 2)],
    ["Your verdict", notes.get(place)?.verdict ?? ""],
  ];
};
const drawPair = (both, rests) => {
  both.forEach((place, i) => keepNear(place, rests[i]));
  const [one, other] = both.map((place) => filters[place]);
  const heads = both.map((place) => `Filter ${filters[place].f}`);
  const summary = make("div", undefined, "summary");
  const wordsOf = (filter) => (filter.r ? [] : found(filter).map((word) => word[0]));
  const common = wordsOf(one).filter((word) => wordsOf(other).includes(word));
  const line = make("p", common.length ? "Words of both: " : "No word is in both.");
  if (common.length) line.append(fromData("b", common.join(", ")));
  summary.append(line);
  const known = (near.get(both[0]) ?? []).find(([place]) => place === both[1]) ?? (near.get(both[1]) ?? []).find(([place]) => place === both[0]);
  if (known) summary.append(make("p", `They answer the same pictures: their highest activations have a correlation of ${known[1].toFixed(2)}.`));
  else if (one.l === other.l) summary.append(make("p", "Neither is among the filters that are most similar to the other.", "note"));
  const shown = both.map((place, i) => [...filters[place].i, ...rests[i].i].map(([picture]) => picture));
  const sharedPictures = new Set(shown[0].filter((picture) => shown[1].includes(picture)));
  summary.append(make("p", `${sharedPictures.size} of the ${Math.min(shown[0].length, shown[1].length)} top pictures are in both.`));
  const sides = both.map((place, i) => drawSide(place, rests[i], sharedPictures));
  const figures = both.map(listFigures);
  const rows = figures[0].map(([name, value], i) => [name, value, figures[1][i][1]]).filter((row) => row[1] || row[2]);
  const tables = make("div", undefined, "tables");
  addPart(tables, "Numbers", drawTable(["Figure", ...heads], rows));
  // Words of either, its guess, and what is on both lists though it is a word of neither.
  const listed = [one, other].map((filter) => filter.w.map((word) => word[0]));
  const words = [...new Set([...wordsOf(one), ...wordsOf(other), ...[one.g, other.g].filter(Boolean), ...listed[0].filter((word) => listed[1].includes(word))])];
  const say = (filter, name) => {
    const word = filter.w.find((own) => own[0] === name);
    if (!word) return "";
    return `${percent(word[1])}${word[4] && !filter.r ? `, confidence ${word[2].toFixed(2)}` : ", no word of it"}`;
  };
  if (words.length) addPart(tables, "Words, by the share of the top pictures that have them", drawTable(["Word", ...heads], words.map((word) => [word, say(one, word), say(other, word)]), "words"));
  const views = drawViews(sides);
  body.replaceChildren(summary, views, ...sides.map(({ side }) => side), tables);
};
const showPair = async (both) => {
  pair = both;
  current = both[0];
  for (const hear of onShow) hear();
  title.replaceChildren(make("span", `Filters ${both.map((place) => filters[place].f).join(" and ")}`), fromData("small", [...new Set(both.map((place) => layerOf(filters[place])))].join(", ")));
  const wait = make("p", "Loading\u2026", "note");
  body.replaceChildren(wait);
  showWindow();
  try {
    const rests = await Promise.all(both.map(loadRest));
    if (pair === both && dialog.open) drawPair(both, rests);
  } catch (error) {
    wait.textContent = `The rest of these filters cannot be unpacked (${error.name}); a browser from 2023 or later can.`;
  }
};
const openPair = (both) => {
  record(dialog.open ? "replaceState" : "pushState", dialog.open ? history.state : { opened: true }, anchorOfPair(both));
  showPair(both);
};
document.addEventListener("click", (event) => {
  const link = event.target.closest(`a[href^="${PAIR}"]`);
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const both = pairOf(link.getAttribute("href"));
  if (!both) return;
  event.preventDefault();
  openPair(both);
});
