// ---- pictures of the sections, drawn shortly before they come into sight

const fill = (holder) => {
  late.unobserve(holder);
  if (!holder.children.length) holder.append(drawPicture(Number(holder.dataset.picture)));
};
const late = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) fill(entry.target);
}, { rootMargin: "600px" });
const holders = [...document.querySelectorAll("[data-picture]")];
for (const holder of holders) late.observe(holder);

// ---- printing

let beforePrint = 0;
window.addEventListener("beforeprint", () => {
  beforePrint = drawn;
  holders.forEach(fill);
  drawMore(MOST_PRINTED);
  [...cards.children].slice(MOST_PRINTED).forEach((card) => card.classList.add("not-printed"));
});
window.addEventListener("afterprint", () => {
  while (cards.children.length > Math.max(beforePrint, PAGE)) cards.lastChild.remove();
  drawn = cards.children.length;
  drawMore(drawn);
  [...cards.children].forEach((card) => card.classList.remove("not-printed"));
});
byId("print").addEventListener("click", async () => {
  drawMore(MOST_PRINTED);
  holders.forEach(fill);
  await loaded;
  await Promise.allSettled([...document.querySelectorAll("#cards img, [data-picture] img")].map((picture) => picture.decode()));
  window.print();
});

// ---- start

byId("controls").addEventListener("submit", (event) => event.preventDefault());
for (const control of controls) control.addEventListener("input", changed);
byId("reset").addEventListener("click", () => {
  byId("controls").reset();
  changed();
});
byId("link").addEventListener("click", () => offerAddress(byId("link"), describeView() || "#filters", (field) => byId("controls").append(field)));
for (const [key, id] of [["j", "recall"], ["d", "f1"]]) {
  const option = byId("sort").querySelector(`[value=${id}]`);
  if (filters.some((filter) => filter[key] !== null)) option.hidden = false;
  else option.remove();
}
sheet.tabIndex = -1;
readNotes();
const isSent = readView(location.hash);
update();
if (isSent && performance.getEntriesByType("navigation")[0]?.type === "navigate") byId("controls").scrollIntoView({ block: "start" });
route();
window.addEventListener("hashchange", () => {
  const before = describeView();
  // Closing a filter leads back to the same view, which stays as it is.
  if (readView(location.hash || VIEW) && describeView() !== before) update();
});
