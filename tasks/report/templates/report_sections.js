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

// ---- what is wider than the screen: it can be scrolled by keyboard, and shows that there is more

const watchWidth = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const isWider = target.scrollWidth > target.clientWidth + 1;
    target.classList.toggle("scrolls", isWider);
    if (target.matches("nav")) continue; // its links are reached by keyboard as they are
    if (!isWider) for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
    else {
      const heading = target.closest("section")?.querySelector("h2");
      target.tabIndex = 0;
      target.setAttribute("role", "group");
      target.setAttribute("aria-label", `${target.querySelector("caption")?.textContent ?? heading?.textContent ?? "Table"}: scrolls sideways`);
    }
  }
});
for (const box of document.querySelectorAll("nav, main .scroll, main .charts")) watchWidth.observe(box);
