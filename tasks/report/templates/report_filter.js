// ---- an opened filter

const dialog = byId("opened");
const sheet = byId("sheet");
const places = new Map(filters.map((filter, place) => [layerOf(filter) + "\n" + filter.f, place]));
const bar = make("div", undefined, "bar");
const title = make("h2");
title.id = "opened-title";
const addButton = (text, label, action) => {
  const button = make("button", text);
  button.type = "button";
  button.title = label;
  if (!/\w/.test(text)) button.setAttribute("aria-label", label);
  button.addEventListener("click", action);
  bar.append(button);
  return button;
};
const body = make("div", undefined, "body");
sheet.append(bar, body);
bar.append(title);
let current = -1;
let opener = null;
let view = "outline";

const RAMP = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]]; // inferno
const toColour = (value) => {
  const at = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((c, i) => Math.round(c + (RAMP[low + 1][i] - c) * (at - low)));
};
const HEAT_PX = 64;
const weigh = (cells) => Array.from({ length: HEAT_PX }, (_, i) => {
  const at = Math.min(Math.max(((i + 0.5) * cells) / HEAT_PX - 0.5, 0), cells - 1);
  const low = Math.min(Math.floor(at), Math.max(cells - 2, 0));
  return [low, Math.min(low + 1, cells - 1), at - low];
});
const drawHeat = (levels, rows, columns) => {
  const canvas = make("canvas", undefined, "heat");
  canvas.width = HEAT_PX;
  canvas.height = HEAT_PX;
  const bytes = Uint8Array.from(atob(levels), (c) => c.charCodeAt(0));
  const pixels = new ImageData(HEAT_PX, HEAT_PX);
  const [down, across] = [weigh(rows), weigh(columns)];
  for (let y = 0; y < HEAT_PX; y += 1) {
    const [top, bottom, dy] = down[y];
    for (let x = 0; x < HEAT_PX; x += 1) {
      const [left, right, dx] = across[x];
      const upper = bytes[top * columns + left] * (1 - dx) + bytes[top * columns + right] * dx;
      const lower = bytes[bottom * columns + left] * (1 - dx) + bytes[bottom * columns + right] * dx;
      pixels.data.set([...toColour((upper * (1 - dy) + lower * dy) / 255), 255], 4 * (y * HEAT_PX + x));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
};

const withRole = (tag, role, className) => {
  const element = make(tag, undefined, className);
  element.setAttribute("role", role);
  return element;
};
const drawTable = (heads, rows, className) => {
  const box = make("div", undefined, "scroll");
  // Where there is no room for columns, rows are shown as blocks with labels; roles keep them a table.
  const table = withRole("table", "table", className ? `stack ${className}` : "stack");
  const head = withRole("tr", "row");
  for (const text of heads) {
    const cell = withRole("th", "columnheader");
    cell.textContent = text;
    cell.scope = "col";
    head.append(cell);
  }
  const top = withRole("thead", "rowgroup");
  top.append(head);
  const rest = withRole("tbody", "rowgroup");
  for (const row of rows) {
    const line = withRole("tr", "row");
    row.forEach((content, i) => {
      const cell = i ? withRole("td", "cell", "figure") : withRole("th", "rowheader");
      if (i) cell.dataset.label = heads[i];
      else [cell.scope, cell.dir] = ["row", "auto"];
      cell.append(...(Array.isArray(content) ? content : [content]));
      line.append(cell);
    });
    rest.append(line);
  }
  table.append(top, rest);
  box.append(table);
  return box;
};
const addPart = (parent, heading, ...content) => {
  const part = make("section");
  part.append(make("h3", heading), ...content);
  parent.append(part);
  return part;
};

const drawHistogram = ([low, high, counts], threshold) => {
  const [width, height, floor] = [480, 150, 126];
  const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img" });
  const isAbove = counts.reduce((sum, n, i) => sum + (low + ((high - low) * (i + 0.5)) / counts.length > threshold ? n : 0), 0);
  chart.append(draw("title", {}, `Activations from ${low} to ${high}; threshold ${threshold}; about ${number.format(isAbove)} above it`));
  const most = Math.log10(1 + Math.max(...counts));
  counts.forEach((count, i) => {
    if (!count) return;
    const tall = Math.max((Math.log10(1 + count) / most) * (floor - 20), 1);
    const middle = low + ((high - low) * (i + 0.5)) / counts.length;
    chart.append(draw("rect", {
      x: (i * width) / counts.length + 0.5, y: floor - tall, width: width / counts.length - 1, height: tall,
      class: middle > threshold ? "bar-above" : "bar-below",
    }));
  });
  const x = Math.min(Math.max(((threshold - low) / (high - low)) * width, 1), width - 1);
  const anchor = x > width - 110 ? "end" : "start";
  chart.append(
    draw("line", { x1: x, x2: x, y1: 4, y2: floor, class: "threshold" }),
    draw("text", { x: x + (anchor === "end" ? -5 : 5), y: 13, "text-anchor": anchor }, `threshold ${threshold}`),
    draw("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "axis" }),
    draw("text", { x: 0, y: height - 6 }, String(low)),
    draw("text", { x: width, y: height - 6, "text-anchor": "end" }, String(high)),
  );
  return chart;
};

// A filter's pictures; `turn` shows them as `view` says.
const drawPictures = (pictures, rest, describe = (entry) => String(entry[1])) => {
  const grid = make("div", undefined, "shots");
  const [rows, columns, low, high] = rest.z;
  const scale = make("p", `Heatmap: from ${low} (dark) to ${high} (bright), the same for all its pictures; the map has ${rows} x ${columns} cells here.`, "note scale");
  for (const entry of pictures) {
    const item = make("div", undefined, "item");
    item.append(drawShot(entry), make("small", describe(entry)));
    grid.append(item);
  }
  const turn = () => {
    grid.className = "shots view-" + view;
    scale.hidden = view !== "heatmap";
    if (view !== "heatmap" || grid.querySelector("canvas")) return;
    [...grid.children].forEach((item, i) => item.firstChild.append(drawHeat(rest.h[i], rows, columns)));
  };
  turn();
  return { grid, scale, turn };
};
// Radio buttons in one frame; `choose` gets the name of the one that is taken.
const drawChoice = (heading, group, names, chosen, choose) => {
  const choice = make("fieldset", undefined, "choice");
  choice.append(make("legend", heading, "sr"));
  for (const name of names) {
    const label = make("label");
    const radio = make("input");
    radio.type = "radio";
    radio.name = group;
    radio.value = name;
    radio.checked = name === chosen;
    radio.addEventListener("change", () => choose(name));
    label.append(radio, make("span", name));
    choice.append(label);
  }
  return choice;
};
const drawViews = (grids) => drawChoice("Show regions as", "view", ["outline", "heatmap", "plain"], view, (name) => {
  view = name;
  for (const { turn } of grids) turn();
});

const drawRest = (filter, rest) => {
  const pictures = [...filter.i, ...rest.i];
  const left = make("div");
  const right = make("div");
  if (pictures.length) {
    const own = drawPictures(pictures, rest);
    left.append(drawViews([own]), own.grid, own.scale, make("p", `Below each picture: the filter's highest activation on it; the threshold is ${filter.t}.`, "note"));
  } else left.append(make("p", "No picture rises above the threshold.", "note"));
  if (rest.m.length > 1) {
    const list = make("ol", undefined, "meanings");
    for (const [share, words, members] of rest.m) {
      const item = make("li");
      item.append(fromData("b", words.join(", ")), ` ${percent(share)} of its top pictures`);
      const strip = make("div", undefined, "strip");
      for (const place of members.slice(0, 6)) strip.append(drawShot(pictures[place]));
      item.append(strip);
      list.append(item);
    }
    addPart(left, "Meanings", make("p", "Its top pictures fall into groups that exclude each other.", "note"), list);
  }
  addWhy(left, filter, rest, pictures);
  addSimilar(left, filter, rest);
  addWords(right, filter, rest);
  if (rest.g) addPart(right, "Activations", drawHistogram(rest.g, filter.t), make("p", "All places of all pictures; heights by the logarithm of the count.", "note"));
  if (rest.c.length) {
    addClasses(right, filter, rest.c);
  }
  if (rest.a || rest.u.length) {
    const part = addPart(right, "Without it");
    if (rest.a) {
      const [changed, logit, classes, kept] = rest.a;
      const share = (value) => (100 * value).toFixed(1);
      if (kept !== undefined) part.append(make("p", `If this filter is taken away, ${share(kept)} % of the answers are kept, and the answers to ${share(changed)} % of the pictures are not the same; the logits of the answers move by ${signed(logit)} on average.`));
      else part.append(make("p", `If this filter is taken away, ${changed === null ? "?" : (100 * changed).toFixed(1)} % of the answers change; the logit of the class that was predicted moves by ${signed(logit)} on average.`));
      if (classes.length) part.append(drawTable(["Class", "Change of its mean logit"], classes.map(([name, ...changes]) => [name, changes.map(signed).join(", ")])));
    }
    for (const [word, used] of rest.u) part.append(fromData("p", `With all other filters of \u201c${word}\u201d: ${used ? "the word is used." : "not used, no more effect than random sets."}`));
  }
  if (rest.b.length) {
    const rows = rest.b.map(([group, other, first, second, difference, low, high, q, verdict]) => [`${group} against ${other}`, `${percent(first)} against ${percent(second)}`, signed(difference) + range(low, high), probability(q), verdict]);
    addPart(right, "Groups in which it differs", drawTable(["Groups", "Shares", "Difference", "q", "Verdict"], rows));
  }
  if (rest.j) {
    const [pairs, recall, f1] = rest.j;
    addPart(right, "Against masks", make("p", `On ${number.format(pairs)} labelled pictures: recall ${recall ?? "unknown"}, F1 ${f1 ?? "unknown"}.`));
  }
  body.replaceChildren(...body.querySelectorAll(".summary"), left, right);
  addJumps(body);
};

// Whatever stands around a filter hears of each that is opened; of a comparison, with nothing.
const onShow = [];
const showWindow = () => {
  if (!dialog.open) {
    opener = document.activeElement;
    dialog.showModal();
    sheet.focus();
  } else if (!sheet.contains(document.activeElement)) sheet.focus();
  sheet.scrollTop = 0;
};
const show = async (place) => {
  current = place;
  for (const hear of onShow) hear(place);
  const filter = filters[place];
  title.replaceChildren(make("span", `Filter ${filter.f}`), fromData("small", layerOf(filter)));
  const summary = make("div", undefined, "summary");
  const list = make("ul", undefined, "chips");
  for (const word of filter.w.filter((w) => w[4] && !filter.r).slice(0, 5)) list.append(drawChip(word, false));
  summary.append(list);
  if (filter.g) summary.append(drawGuess(filter));
  if (filter.r) summary.append(make("p", "unexplained: " + filter.r, "reason"));
  const confidence = filter.r ? "" : `confidence ${filter.c.toFixed(2)}; `;
  summary.append(make("p", `${confidence}${number.format(filter.n)} pictures above its threshold of ${filter.t}`, "soft"));
  const wait = make("p", "Loading\u2026", "note");
  body.replaceChildren(summary, wait);
  showWindow();
  try {
    const rest = await loadRest(place);
    if (current === place && !pair && dialog.open) drawRest(filter, rest);
  } catch (error) {
    wait.textContent = `The rest of this filter cannot be unpacked (${error.name}); a browser from 2023 or later can.`;
  }
};
const hide = () => {
  current = -1;
  pair = null;
  if (dialog.open) dialog.close();
  body.replaceChildren();
};
const placeOf = (hash) => {
  const match = /^#filter-(.*)-(\d+)$/s.exec(hash);
  if (!match) return -1;
  try {
    return places.get(decodeURIComponent(match[1]) + "\n" + Number(match[2])) ?? -1;
  } catch {
    return -1;
  }
};
// Where the page is shown inside another one, the history may not be its own.
const record = (how, state, address) => {
  try {
    history[how](state, "", address);
  } catch {
    // The filter opens all the same.
  }
};
const route = () => {
  const place = placeOf(location.hash);
  const both = pairOf(location.hash);
  if (both) {
    if (!pair || anchorOfPair(pair) !== anchorOfPair(both)) showPair(both);
  } else if (place < 0) hide();
  else if (place !== current || pair) show(place);
};
const open = (place) => {
  record(dialog.open ? "replaceState" : "pushState", dialog.open ? history.state : { opened: true }, anchorOf(filters[place]));
  show(place);
};
const close = () => {
  const cameFromPage = history.state && history.state.opened;
  hide();
  if (placeOf(location.hash) < 0 && !pairOf(location.hash)) return;
  if (cameFromPage) history.back();
  else record("replaceState", null, describeView() || location.pathname + location.search);
};
const step = (by) => {
  if (pair) return;
  const order = shown.includes(current) ? shown : filters.map((_, place) => place);
  const next = order[order.indexOf(current) + by];
  if (next !== undefined) open(next);
};
const steps = [
  addButton("\u2190", "Previous filter (left arrow or k)", () => step(-1)),
  addButton("\u2192", "Next filter (right arrow or j)", () => step(1)),
];
// To the clipboard, or into a field to copy from where a page may not write there.
const offerAddress = async (button, anchor, put) => {
  const address = location.href.split("#")[0] + anchor;
  button.dataset.label ??= button.textContent;
  try {
    await navigator.clipboard.writeText(address);
    button.textContent = "Copied";
  } catch {
    const own = button.id || "opened";
    const field = document.querySelector(`input[data-of="${own}"]`) ?? make("input");
    field.dataset.of = own;
    field.readOnly = true;
    field.value = address;
    field.setAttribute("aria-label", "Address to copy");
    put(field);
    field.select();
  }
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
};
const copy = addButton("Copy link", "Copy link to what is shown here", () => offerAddress(copy, pair ? anchorOfPair(pair) : anchorOf(filters[current]), (field) => body.prepend(field)));
addButton("\u00d7", "Close (Escape)", close).classList.add("close");

dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  close();
});
dialog.addEventListener("close", () => { if (current >= 0) close(); });
dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#filter-"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const place = placeOf(link.getAttribute("href"));
  if (place < 0) return;
  event.preventDefault();
  open(place);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isField = event.target.matches("input:not([type=radio]), select, textarea");
  if (dialog.open) {
    if (isField) return;
    const isRadio = event.target.matches("input");
    const by = { j: 1, k: -1, ...(isRadio ? {} : { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0 }) }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  } else if (event.key === "/" && !isField) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  }
});
window.addEventListener("popstate", () => {
  const wasOpen = opener;
  route();
  // Going back to a section's address moves the focus there; it belongs to the card that was opened.
  if (!dialog.open && wasOpen) setTimeout(() => wasOpen.focus({ preventScroll: true }));
  if (!dialog.open) opener = null;
});
window.addEventListener("hashchange", route);
