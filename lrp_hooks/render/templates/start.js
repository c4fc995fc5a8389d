// Legend, controls, first drawing.

function drawLegend() {
  const legend = document.getElementById("legend"), tops = data.panels.map(reach);
  legend.replaceChildren();
  const same = tops.every((top) => Math.abs(top - tops[0]) < 1e-6 * tops[0]);
  const label = same ? `${Number(tops[0].toPrecision(3))}${state.normalize === "none" ? " logits" : ""}` : "largest |R|";
  drawRamp(legend, data.supports, [`−${label}`, "0", label]);
  if (data.panels.some((panel) => panel.special.some((_, i) => isSpecial(panel, i)))) {
    const item = make("span", legend, "note");
    make("span", item, "swatch").style.background = css(gray());
    item.append("gray: special token, outside the scale");
  }
}

function draw() {
  document.documentElement.dataset.theme = ground();
  for (const panel of data.panels) {
    rankTokens(panel);
    drawTokens(panel);
    drawTable(panel);
    if (panel.layers) drawMap(panel);
  }
  drawLegend();
  drawScatter();
}

for (const name of Object.keys(data.palettes)) make("option", control("palette"), "", name).value = name;
control("palette").value = state.palette;
control("theme").value = state.theme;
control("normalize").value = state.normalize;
control("range-control").hidden = data.panels.length < 2;
control("rows-control").hidden = !data.panels.some((panel) => panel.layers);
control("controls").addEventListener("input", () => {
  for (const id of ["normalize", "palette", "range", "rows", "theme"]) state[id] = control(id).value;
  state.hideSpecial = control("special").checked;
  state.firstSpecial = control("first").checked;
  leave();
  draw();
});
control("controls").addEventListener("submit", (event) => event.preventDefault());
darkness.addEventListener("change", draw);
addEventListener("keydown", (event) => { if (event.key === "Escape") leave(); });
addEventListener("scroll", hideTip, { passive: true });
build();
buildScatter();
draw();
