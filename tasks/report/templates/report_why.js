// ---- an opened filter: its words, what was near, which pictures speak for and against, the classes that it serves

const withSmall = (text, small) => [make("span", text, "whole"), ...(small ? [make("small", small)] : [])];
const addWords = (parent, filter, rest) => {
  if (!filter.w.length) return;
  const measured = rest.w.some((word) => word[6] !== null);
  const isNear = ([, , , , significant]) => Boolean(filter.r) || !significant;
  const toRow = ([word, share, confidence, novel], i) => {
    const [votes, low, high, background, p, q, auroc, least, most] = rest.w[i];
    const interval = low === null ? "" : `${percent(low)} to ${percent(high)}`;
    const figures = [
      withSmall(`${percent(share)} (${votes})`, interval),
      background === null ? "\u2013" : `${(100 * background).toFixed(1)} %`,
      withSmall(probability(p), `q ${probability(q)}`),
    ];
    const name = word + (novel ? "*" : "");
    if (!measured) return [name, confidence.toFixed(2), ...figures];
    const preference = auroc === null ? "not measured" : withSmall(auroc.toFixed(2), `${least.toFixed(2)} to ${most.toFixed(2)}`);
    return [name, confidence.toFixed(2), preference, ...figures];
  };
  const heads = measured
    ? ["Word", "Confidence", "AUROC", "Top pictures that have it", "Of all pictures", "p, q"]
    : ["Word", "Confidence", "Top pictures that name it", "Of other filters", "p, q"];
  const places = filter.w.map((_, i) => i);
  const [near, own] = [places.filter((i) => isNear(filter.w[i])), places.filter((i) => !isNear(filter.w[i]))];
  const draw = (chosen) => chosen.map((i) => toRow(filter.w[i], i));
  if (own.length) addPart(parent, "Words", drawTable(heads, draw(own), "words"));
  if (!near.length) return;
  const lacks = near.map((i) => rest.w[i][10]);
  const isTold = lacks.some(Boolean);
  const rows = draw(near).map((row, i) => (isTold ? [...row, lacks[i] || "\u2013"] : row));
  const says = filter.r ? "The best of them, none of which holds." : "The next best, which are not counted among its words.";
  addPart(parent, "Near words", make("p", says, "note"), drawTable(isTold ? [...heads, "What it lacks"] : heads, rows, "words near"));
};

// Which pictures carry the word, and which speak against it.
const addWhy = (parent, filter, rest, pictures) => {
  if (!rest.y) return;
  const [word, flags, numHave, numTop, numWith, numAbove, silent] = rest.y;
  const quoted = `\u201c\u2068${word}\u2069\u201d`;
  const isWhole = numWith !== null;
  const part = addPart(parent, filter.r ? `What speaks for and against the guess ${quoted}` : `Why ${quoted}`);
  part.id = "why";
  const source = isWhole
    ? `Whether a picture has ${quoted} is what the explainer says of the whole picture (it does with a probability of at least one half), not a label: it may be wrong.`
    : `Whether a picture has ${quoted} is what the explainer says of the filter's region on it (it is among its first words there), not a label: it may be wrong.`;
  part.append(make("p", source, "note"));
  const addStrip = (heading, entries, withPeaks) => {
    part.append(make("h4", heading));
    if (!entries.length) return;
    const strip = make("div", undefined, "reasons");
    for (const entry of entries) {
      const item = make("div", undefined, "item");
      item.append(drawShot(entry), ...(withPeaks ? [make("small", String(entry[1]))] : []));
      strip.append(item);
    }
    part.append(strip);
  };
  addStrip(`For it: ${numHave} of the ${number.format(numTop)} top pictures have it`, pictures.filter((_, i) => flags[i]));
  const against = numTop - numHave;
  addStrip(against ? `Against it: ${against} of them ${against === 1 ? "does" : "do"} not` : "Against it: no top picture is without it", pictures.filter((_, i) => flags[i] === 0));
  if (!isWhole) return;
  const numSilent = numWith - numAbove;
  const stays = `Against it: on ${number.format(numSilent)} of all ${number.format(numWith)} pictures that have it, the filter stays below its threshold`;
  addStrip(stays, silent.map(([place, peak]) => [place, peak, ""]), true);
  if (silent.length) part.append(make("p", "Shown are those with the lowest peak (below the picture) that this page has.", "note"));
};

// Classes by what the filter adds to their logits, with links to those that the section on classes shows.
const addClasses = (parent, filter, classes) => {
  const rows = classes.map(([name, value, low, high, rank, key]) => {
    const id = `class-${encodeURIComponent(layerOf(filter))}-${key}`;
    const link = make(byId(id) ? "a" : "span", name);
    link.dir = "auto";
    if (byId(id)) link.href = "#" + id;
    return [[link], withSmall(signed(value), low === null ? "" : `${signed(low)} to ${signed(high)}`), rank === 1 ? "1, the first" : String(rank)];
  });
  const says = "The answers to which it adds most, on average over the pictures that get them.";
  addPart(parent, "Classes that it serves", make("p", says, "note"), drawTable(["Class", "Adds to its logit", "Rank among the class's filters"], rows));
};
document.addEventListener("click", (event) => {
  const link = event.target.closest('#sheet a[href^="#class-"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const id = link.getAttribute("href").slice(1);
  hide();
  record("replaceState", null, "#" + id);
  byId(id).scrollIntoView({ block: "center" });
  byId(id).focus({ preventScroll: true });
});

// What the window holds, as buttons that lead there: on a small screen most of it is below the pictures.
const addJumps = (parent) => {
  const parts = [...parent.querySelectorAll("section")].map((part) => [part, part.querySelector("h3")]);
  if (parts.length < 2) return;
  const list = make("ul", undefined, "jumps");
  list.setAttribute("aria-label", "Parts of this window");
  for (const [part, heading] of parts) {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.append(...[...heading.childNodes].map((node) => node.cloneNode(true)));
    button.addEventListener("click", () => {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
      sheet.scrollTop += part.getBoundingClientRect().top - sheet.getBoundingClientRect().top - bar.offsetHeight;
    });
    item.append(button);
    list.append(item);
  }
  parent.querySelector(".summary").append(list);
};
