// Legend, controls, first drawing.

const STEPS = 1000;
const strongest = edges.count ? Math.abs(edges.weight[0]) : 1, weakest = edges.count ? Math.abs(edges.weight[edges.count - 1]) || strongest * 1e-6 : 1;
// The slider is logarithmic; its left end shows everything.
const thresholdAt = (step) => (step <= 0 ? 0 : Math.min(strongest, weakest * Math.pow(strongest / weakest, step / STEPS)));
const stepOf = (threshold) => (threshold <= 0 || strongest === weakest ? 0 : Math.round((STEPS * Math.log(threshold / weakest)) / Math.log(strongest / weakest)));

const shownWords = () => `${shown.edges.length.toLocaleString("en")} of ${edges.count.toLocaleString("en")} edges · ${percent(shown.mass, allMass)} of Σ|weight|`;

function drawLegend() {
  const legend = control("legend"), most = Number(data.scales.node.toPrecision(3));
  legend.replaceChildren();
  drawRamp(legend, data.supports, [`−${most} logits`, "0", `${most}`]);
  sample(legend, "node: relevance", 44, (pen) => [0.05, 0.3, 1].forEach((share, k) => {
    pen.beginPath(); pen.arc([6, 17, 33][k], 12, radius(share, 22), 0, 7); pen.fill();
  }));
  sample(legend, "edge: weight", 40, (pen) => [0.02, 0.3, 1].forEach((share, k) => {
    pen.beginPath(); pen.moveTo(6 + 13 * k, 2); pen.lineTo(6 + 13 * k, 22); pen.lineWidth = edgeWidth(share, 22); pen.stroke();
  }));
  sample(legend, "explained node", 20, (pen) => { pen.beginPath(); pen.arc(10, 12, 8, 0, 7); pen.stroke(); pen.beginPath(); pen.arc(10, 12, 5, 0, 7); pen.fill(); });
  if (layout.gaps.length) sample(legend, "tokens left out", 14, (pen) => { pen.setLineDash([2, 4]); pen.beginPath(); pen.moveTo(7, 0); pen.lineTo(7, 24); pen.stroke(); });
}

function sample(legend, words, width, draw) {
  const item = make("span", legend, "sample"), picture = make("canvas", item), ratio = pixelRatio();
  Object.assign(picture, { width: width * ratio, height: 24 * ratio });
  Object.assign(picture.style, { width: `${width}px`, height: "24px" });
  picture.setAttribute("aria-hidden", "true");
  const pen = picture.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = pen.strokeStyle = inks.dim;
  draw(pen);
  item.append(words);
}

// Everything that depends on which edges are shown; columns are laid out anew when the reader lets go of the slider.
function filterChanged(relayout) {
  refilter();
  columnMass = new Map();
  for (let n = 0; n < nodes.count; n++) {
    if (shown.node[n]) columnMass.set(nodes.column[n], (columnMass.get(nodes.column[n]) || 0) + Math.abs(nodes.relevance[n]));
  }
  if (relayout) { arrange(); search(); drawLegend(); }
  control("shown").textContent = `${Number(state.threshold.toPrecision(3))} · ${shownWords()}`;
  relight();
}

function listenControls() {
  for (const option of Object.keys(data.palettes)) make("option", control("palette"), "", option).value = option;
  control("palette").value = state.palette;
  control("theme").value = state.theme;
  control("first-word").textContent = firstWord;
  control("special-control").hidden = !data.special.some(Boolean);
  control("threshold").value = stepOf(state.threshold);
  control("controls").addEventListener("input", () => {
    for (const id of ["palette", "theme"]) state[id] = control(id).value;
    Object.assign(state, { hideFirst: control("first").checked, hideSpecial: control("special").checked, values: control("values").checked });
    restyle();
    filterChanged(true);
  });
  control("threshold").addEventListener("input", () => { state.threshold = thresholdAt(+control("threshold").value); filterChanged(false); });
  control("threshold").addEventListener("change", () => filterChanged(true));
  control("search").addEventListener("input", () => { state.search = control("search").value; search(); });
  control("search").addEventListener("keydown", (event) => { if (event.key === "Enter") nextFound(); });
  control("reset").addEventListener("click", resetView);
  control("zoom-in").addEventListener("click", () => zoomBy(1.5));
  control("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  control("save-svg").addEventListener("click", () => download(new Blob([svgText()], { type: "image/svg+xml" }), "svg"));
  control("save-png").addEventListener("click", async () => download(await pngBlob(), "png"));
  for (const id of ["controls", "tools"]) control(id).addEventListener("submit", (event) => event.preventDefault());
  darkness.addEventListener("change", restyle);
}

function restyle() {
  readTheme();
  drawLegend();
  request("style");
}

function start() {
  readTheme();
  for (const words of data.caption) make("p", control("captions"), "caption", words);
  control("note").hidden = state.threshold === 0;
  control("note").textContent = `A large graph: it starts with its ${data.readableEdges} strongest edges. Move the slider to the left for more.`;
  resize();
  filterChanged(true);
  listPaths();
  listen();
  listenControls();
  new ResizeObserver(resize).observe(control("frame"));
}
start();
