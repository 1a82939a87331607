// To a part of the page. The address holds the page's state, so that links within the page must not touch it.

/** Scrolls to the part and puts the focus on its title, `id-title`. */
export function jump(id: string): void {
  const title = document.getElementById(`${id}-title`);
  if (title === null) return;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById(id)?.scrollIntoView({ behavior: isStill ? "auto" : "smooth", block: "start" });
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}
