// In another page's frame: say how high this one is, so that the frame needs no scroll bar of its own; and follow that
// page's colours without being made anew, which would lose what the reader has set here.
new ResizeObserver(() => parent.postMessage({ height: Math.ceil(document.body.getBoundingClientRect().height) }, "*")).observe(document.body);
addEventListener("message", (event) => {
  const { palette, theme } = event.data || {};
  if (event.source !== parent || !(palette in data.palettes) || !["auto", "light", "dark"].includes(theme)) return;
  control("palette").value = palette;
  control("theme").value = theme;
  control("controls").dispatchEvent(new Event("input"));
});
