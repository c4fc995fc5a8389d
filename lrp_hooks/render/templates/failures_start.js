// Controls, first drawing.

function draw() {
  document.documentElement.dataset.theme = ground();
  buildPlots();
  drawList();
  if (state.open !== null) openCase(state.open);
}

for (const name of Object.keys(data.palettes)) make("option", control("palette"), "", name).value = name;
for (const name of data.models) make("option", control("model"), "", name).value = name;
for (const kind of new Set(data.cases.map((c) => c.kind).filter(Boolean))) make("option", control("kind"), "", kind).value = kind;
control("palette").value = state.palette;
control("model-control").hidden = data.models.length < 2;
control("controls").addEventListener("input", () => {
  for (const id of ["palette", "theme", "model"]) state[id] = control(id).value;
  hideTip();
  draw();
});
for (const form of ["controls", "filters"]) control(form).addEventListener("submit", (event) => event.preventDefault());
control("filters").addEventListener("input", drawList);
darkness.addEventListener("change", draw);
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, { passive: true });
buildOverview();
if (data.cases.length) state.open = 0;
draw();
