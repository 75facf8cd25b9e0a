"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = document.getElementById("rows");
  const more = document.getElementById("more");
  const controls = ["query", "sort", "show", "layer"].map((id) => document.getElementById(id)).filter(Boolean);
  const PAGE = 40;
  let shown = [];
  let drawn = 0;

  // Only textContent and attributes below: words, names and reasons come from data and are never read as markup.
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const anchor = (filter) => "filter-" + encodeURIComponent(filter.l) + "-" + filter.f;
  const firstWord = (filter) => (!filter.r && filter.w.length ? filter.w[0][0] : "\uffff");
  const orders = {
    confidence: (a, b) => b.c - a.c || a.f - b.f,
    filter: (a, b) => (a.l < b.l ? -1 : a.l > b.l ? 1 : a.f - b.f),
    word: (a, b) => firstWord(a).localeCompare(firstWord(b)) || b.c - a.c,
    images: (a, b) => b.n - a.n || b.c - a.c,
  };
  const kinds = {
    all: () => true,
    explained: (filter) => !filter.r,
    unexplained: (filter) => Boolean(filter.r),
    novel: (filter) => !filter.r && filter.w.some((word) => word[3] && word[4]),
    several: (filter) => filter.m.length > 1,
  };

  const drawPictures = (filter) => {
    const cell = make("td");
    const box = make("div", undefined, "pictures");
    for (const [number, peak, outline] of filter.i) {
      const figure = make("figure");
      const picture = make("img");
      picture.src = data.pictures[number];
      picture.alt = data.names[number];
      picture.loading = "lazy";
      figure.append(picture);
      if (outline) {
        const overlay = svg("svg", { viewBox: `0 0 ${data.grid} ${data.grid}`, "aria-hidden": "true" });
        overlay.append(svg("path", { d: outline }));
        figure.append(overlay);
      }
      const caption = make("figcaption", `${peak} ${data.names[number]}`);
      caption.title = data.names[number];
      figure.append(caption);
      box.append(figure);
    }
    cell.append(box);
    return cell;
  };

  const drawRow = (filter) => {
    const row = make("tr");
    row.id = anchor(filter);
    const name = make("th");
    name.scope = "row";
    const link = make("a", String(filter.f));
    link.href = "#" + row.id;
    name.append(link, make("span", filter.l, "layer"));
    const words = make("td");
    const list = make("ul", undefined, "words");
    for (const [word, votes, confidence, novel, significant, evidence] of filter.w) {
      const item = make("li", word + (novel ? "* " : " "), significant ? "" : "weak");
      item.title = evidence;
      item.append(make("small", significant ? `${votes}, ${confidence.toFixed(2)}` : String(votes)));
      list.append(item);
    }
    words.append(list);
    if (filter.m.length > 1) {
      const meanings = make("ol", undefined, "meanings");
      for (const [share, names] of filter.m) meanings.append(make("li", `${Math.round(100 * share)} %: ${names.join(", ")}`));
      words.append(make("p", "several meanings", "reason"), meanings);
    }
    if (filter.r) words.append(make("p", "unexplained: " + filter.r, "reason"));
    const confidence = make("td");
    const meter = make("meter");
    meter.min = 0;
    meter.max = 1;
    meter.value = filter.c;
    confidence.append(meter, " " + filter.c.toFixed(2), make("br"), make("small", `${filter.n} pictures`));
    row.append(name, words, confidence, make("td", String(filter.t)), drawPictures(filter));
    return row;
  };

  const drawMore = (upTo) => {
    const end = Math.min(Math.max(upTo, drawn), shown.length);
    const part = document.createDocumentFragment();
    for (; drawn < end; drawn += 1) part.append(drawRow(shown[drawn]));
    rows.append(part);
  };

  const update = () => {
    const value = Object.fromEntries(controls.map((control) => [control.id, control.value]));
    const query = value.query.trim().toLowerCase();
    shown = data.filters
      .filter(kinds[value.show])
      .filter((filter) => !value.layer || filter.l === value.layer)
      .filter((filter) => !query || String(filter.f) === query || filter.w.some((word) => word[0].toLowerCase().includes(query)))
      .sort(orders[value.sort]);
    rows.replaceChildren();
    drawn = 0;
    drawMore(PAGE);
    document.getElementById("count").textContent = `${shown.length} of ${data.filters.length} filters`;
  };

  const openTarget = () => {
    const id = location.hash.slice(1);
    const position = shown.findIndex((filter) => anchor(filter) === id);
    if (position < 0) return;
    drawMore(position + PAGE);
    document.getElementById(id).scrollIntoView({ block: "center" });
  };

  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const control of controls) control.addEventListener("input", update);
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) drawMore(drawn + PAGE);
  }, { rootMargin: "1200px" }).observe(more);
  window.addEventListener("hashchange", openTarget);
  window.addEventListener("beforeprint", () => drawMore(shown.length));
  update();
  openTarget();
})();
