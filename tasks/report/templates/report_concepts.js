// ---- concepts: a word leads to its filters

document.addEventListener("click", (event) => {
  const link = event.target.closest('#concepts a[href^="#view?"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  readView(link.getAttribute("href"));
  changed();
  byId("controls").scrollIntoView({ block: "start" });
  byId("query").focus({ preventScroll: true });
});
