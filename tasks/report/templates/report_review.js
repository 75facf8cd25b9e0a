// ---- a reviewer's verdict and note on each filter: kept in this browser, saved and read as CSV

const VERDICTS = ["fits", "partly", "no"];
const NOTE_COLUMNS = ["layer", "filter", "word", "verdict", "note", "reviewer"];
const KEPT_AS = "lavise review " + data.review;
const notes = new Map(); // place -> { verdict, note }, of which one may be empty
let isKept = true;
const verdictOf = (place) => notes.get(place)?.verdict ?? "";
const hasVerdict = {
  all: () => true,
  reviewed: (place) => Boolean(verdictOf(place)),
  open: (place) => !verdictOf(place),
  ...Object.fromEntries(VERDICTS.map((verdict) => [verdict, (place) => verdictOf(place) === verdict])),
};
// What is judged: the first word of an explained filter, else its best guess.
const judgedWord = (filter) => (filter.r ? filter.g ?? "" : found(filter)[0]?.[0] ?? "");

// Where the page is shown inside another one, or storage is off, every access throws.
const keepNotes = () => {
  try {
    const content = { reviewer: byId("reviewer").value, notes: [...notes].map(([place, { verdict, note }]) => [place, verdict, note]) };
    localStorage.setItem(KEPT_AS, JSON.stringify(content));
    isKept = true;
  } catch {
    isKept = false;
  }
  sayKept();
};
const readNotes = () => {
  try {
    const content = JSON.parse(localStorage.getItem(KEPT_AS) ?? '{"reviewer": "", "notes": []}');
    notes.clear();
    for (const [place, verdict, note] of content.notes) if (filters[place]) notes.set(place, { verdict: String(verdict), note: String(note) });
    byId("reviewer").value = content.reviewer;
  } catch (error) {
    isKept = error instanceof SyntaxError || error instanceof TypeError; // damaged: what is written next takes its place
  }
  sayKept();
  sayReviewed();
};
const sayKept = () => {
  byId("kept").textContent = isKept
    ? "Your notes stay in this browser, for this page and for no other."
    : "Your notes are kept only until this page is closed: the browser lets it store nothing here. Save or copy them before.";
  byId("kept").classList.toggle("mark", !isKept);
  byId("notes-to-copy").hidden = isKept;
  if (!isKept) byId("notes-text").value = writeNotes();
};
const sayReviewed = () => {
  const counts = VERDICTS.map((verdict) => [...notes.values()].filter((own) => own.verdict === verdict).length);
  const total = counts[0] + counts[1] + counts[2];
  byId("num-reviewed").textContent = `${number.format(total)} of ${number.format(filters.length)} filters${total ? `: ${VERDICTS.map((verdict, i) => `${number.format(counts[i])} ${verdict}`).join(", ")}` : ""}`;
};

// ---- on the cards

const drawMark = (card, place) => {
  card.querySelector(".review-mark")?.remove();
  const own = notes.get(place);
  if (!own) return;
  const mark = make("p", undefined, "badge review-mark");
  if (own.verdict) mark.append(make("b", `your verdict: ${own.verdict}`, "verdict-" + own.verdict), own.note ? "; " : "");
  if (own.note) mark.append(fromData("span", own.note));
  card.querySelector(".strip").before(mark);
};
const setNote = (place, verdict, note) => {
  if (verdict || note) notes.set(place, { verdict, note });
  else notes.delete(place);
  const card = cards.querySelector(`[data-place="${place}"]`);
  if (card) drawMark(card, place);
};

// ---- in the window of a filter

const reviewBox = make("div", undefined, "review-box");
const asked = make("p", undefined, "asked");
asked.id = "asked";
const verdictChoice = drawChoice("Your verdict", "verdict", VERDICTS, "", (verdict) => decide(verdict));
verdictChoice.setAttribute("aria-describedby", asked.id);
const undecide = make("button", "Clear");
undecide.type = "button";
undecide.setAttribute("aria-label", "Clear the verdict");
const noteField = make("textarea");
noteField.rows = 1;
noteField.maxLength = 2000;
const noteLabel = make("label", "Note ");
noteLabel.append(noteField);
reviewBox.append(asked, verdictChoice, undecide, noteLabel);
bar.after(reviewBox);
const drawReview = () => {
  for (const radio of verdictChoice.querySelectorAll("input")) radio.checked = radio.value === verdictOf(current);
  undecide.disabled = !verdictOf(current);
};
const decide = (verdict) => {
  setNote(current, verdict, noteField.value.trim());
  keepNotes();
  sayReviewed();
  drawReview();
};
undecide.addEventListener("click", () => {
  decide("");
  verdictChoice.querySelector("input").focus();
});
noteField.addEventListener("input", () => decide(verdictOf(current)));
onShow.push((place) => {
  reviewBox.hidden = place === undefined;
  if (place === undefined) return;
  const filter = filters[place];
  const word = judgedWord(filter);
  asked.replaceChildren(...(word ? [filter.r ? "Does the guess " : "Does ", fromData("b", word), " fit?"] : ["It has no word."]));
  noteField.value = notes.get(place)?.note ?? "";
  drawReview();
});
document.addEventListener("keydown", (event) => {
  if (!dialog.open || pair || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=radio]), select, textarea")) return;
  const verdict = { 0: "", 1: "fits", 2: "partly", 3: "no" }[event.key];
  if (verdict !== undefined) decide(verdict);
});

// ---- as CSV

const writeNotes = () => {
  const reviewer = byId("reviewer").value.trim();
  const rows = [...notes.keys()].sort(byPlace).map((place) => {
    const { verdict, note } = notes.get(place);
    return [layerOf(filters[place]), filters[place].f, judgedWord(filters[place]), verdict, note, reviewer];
  });
  return [NOTE_COLUMNS, ...rows].map((row) => row.map(quote).join(",") + "\r\n").join("");
};
// Rows of cells (RFC 4180); null where a quote is not closed, or text follows one.
const parseCsv = (text) => {
  const rows = [[]];
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|\r|$)/gy;
  for (let match; cell.lastIndex < text.length || rows.at(-1).length; ) {
    match = cell.exec(text);
    if (!match) return null;
    rows.at(-1).push(match[1] === undefined ? match[2] : match[1].replaceAll('""', '"'));
    if (match[3] !== ",") {
      if (cell.lastIndex >= text.length) break;
      rows.push([]);
    }
  }
  return rows.filter((row) => row.length > 1 || row[0]);
};
const bare = (text) => (/^'+[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) ? text.slice(1) : text);
// [place, verdict, note, word], and the reviewer's name; throws what is wrong, in a line.
const checkNotes = (text) => {
  const rows = parseCsv(text.replace(/^\ufeff/, ""));
  if (!rows) throw new RangeError("this is no CSV: a quote is not closed");
  const header = (rows.shift() ?? []).map((name) => name.trim());
  const lacking = NOTE_COLUMNS.slice(0, 5).filter((name) => !header.includes(name));
  if (lacking.length) throw new RangeError(`the column ${lacking[0]} is missing; the first line has to be ${NOTE_COLUMNS.join(",")}, separated by commas`);
  const names = new Set();
  const seen = new Set();
  const read = rows.map((cells, i) => {
    const [layer, word, ...others] = ["layer", "word", "filter", "verdict", "note", "reviewer"].map((name) => bare(cells[header.indexOf(name)] ?? ""));
    const [number, verdict, note, reviewer] = others.map((text) => text.trim());
    const where = `row ${i + 2}`;
    if (cells.length > header.length) throw new RangeError(`${where} has ${cells.length} cells, the first line has ${header.length}`);
    const place = /^\d+$/.test(number) ? places.get(layer + "\n" + Number(number)) : undefined;
    if (place === undefined) throw new RangeError(`${where}: this page has no filter ${number.slice(0, 20)} of layer ${layer.slice(0, 80)}`);
    if (seen.has(place)) throw new RangeError(`${where}: filter ${number} of layer ${layer} is there twice`);
    seen.add(place);
    if (verdict ? !VERDICTS.includes(verdict) : !note) throw new RangeError(`${where}: the verdict is ${verdict ? `"${verdict.slice(0, 20)}"` : "empty, and so is the note"}; allowed: ${VERDICTS.join(", ")}`);
    names.add(reviewer);
    return [place, verdict, note, word];
  });
  if (names.size > 1) throw new RangeError("these are notes of several reviewers; read those of one");
  return [read, [...names][0] ?? ""];
};
byId("save-notes").addEventListener("click", () => save(writeNotes(), "text/csv;charset=utf-8", "notes.csv"));
byId("reviewer").addEventListener("input", keepNotes);
byId("load-notes").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  const says = byId("review-says");
  try {
    const [rows, name] = checkNotes(await file.text());
    const own = rows.filter(([place, , , word]) => word === judgedWord(filters[place]));
    for (const [place, verdict, note] of own) setNote(place, verdict, note);
    byId("reviewer").value ||= name;
    const others = rows.length - own.length;
    says.textContent = `${number.format(own.length)} notes read${others ? `; ${number.format(others)} left out: they are about other words than these filters have here` : ""}.`;
    keepNotes();
    sayReviewed();
  } catch (error) {
    says.textContent = `Nothing was read. ${file.name}: ${error.message}.`;
  }
  event.target.value = "";
});
// Another window with the same page.
window.addEventListener("storage", (event) => {
  if (event.key !== KEPT_AS) return;
  readNotes();
  for (const card of cards.children) drawMark(card, Number(card.dataset.place));
  if (dialog.open && !pair && document.activeElement !== noteField) noteField.value = notes.get(current)?.note ?? "";
  if (dialog.open && !pair) drawReview();
});
