// The page's data: filters, and pictures that are decoded when they are shown.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const filters = data.filters;
const [seenHeight, seenWidth] = data.shape;
document.documentElement.style.setProperty("--shape", `${seenWidth} / ${seenHeight}`);
const PAGE = 24;
const MOST_PRINTED = 300;
const CARD_WORDS = 3;
const number = new Intl.NumberFormat("en");

// Only textContent and attributes below: words, names and reasons come from data and are never read as markup.
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const draw = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
const fromData = (tag, text, className) => {
  const element = make(tag, text, className);
  element.dir = "auto";
  return element;
};
const percent = (share) => (share === null ? "" : `${Math.round(100 * share)} %`);
const signed = (value) => (value === null ? "" : (value > 0 ? "+" : "") + String(value).replace("-", "\u2212"));
const range = (low, high) => (low === null || high === null ? "" : ` [${signed(low)}, ${signed(high)}]`);
const probability = (p) => (p === null ? "" : p > 0 && p < 0.001 ? p.toExponential(1) : p.toFixed(3));
const layerOf = (filter) => data.layers[filter.l];
const anchorOf = (filter) => "#filter-" + encodeURIComponent(layerOf(filter)) + "-" + filter.f;
const loaded = new Promise((resolve) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve);
  else resolve();
});

// ---- pictures: each is in the page once, as text, and is decoded when it is shown

const chunks = new Map();
const readChunk = (index) => {
  if (!chunks.has(index)) {
    const holder = byId("pictures-" + index);
    // While the page loads, what has nothing after it may be half there.
    if (!holder || (document.readyState === "loading" && !holder.nextElementSibling)) return null;
    chunks.set(index, JSON.parse(holder.textContent));
  }
  return chunks.get(index);
};
const showPicture = (picture, place) => {
  const chunk = readChunk(Math.floor(place / data.chunk));
  if (!chunk) {
    if (document.readyState === "loading") loaded.then(() => showPicture(picture, place));
    return;
  }
  const [names, contents] = chunk;
  picture.alt = names[place % data.chunk];
  picture.title = picture.alt;
  picture.src = "data:image/webp;base64," + contents[place % data.chunk];
};
const drawPicture = (place) => {
  const picture = make("img");
  picture.decoding = "async";
  showPicture(picture, place);
  return picture;
};
const drawShot = ([place, , outline]) => {
  const figure = make("figure", undefined, "shot");
  figure.append(drawPicture(place));
  if (outline) {
    const overlay = draw("svg", { viewBox: `0 0 ${data.grid} ${data.grid}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "outline" });
    overlay.append(draw("path", { d: outline, class: "halo" }), draw("path", { d: outline, class: "line" }));
    figure.append(overlay);
  }
  return figure;
};

// ---- the rest of a filter's entry: packed, and unpacked when the filter is opened

const parts = new Map();
const unpack = async (index) => {
  await loaded;
  const packed = Uint8Array.from(atob(byId("rest-" + index).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};
const loadRest = async (place) => {
  const index = Math.floor(place / data.part);
  if (!parts.has(index)) parts.set(index, unpack(index));
  return (await parts.get(index))[place % data.part];
};
