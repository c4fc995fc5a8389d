// Token x layer map: one image pixel per cell, scaled by the browser; many tokens are binned to the width by the strongest score.

const NAMED = 13; // cells this wide or wider carry their token's label
const WIDEST = 44, BESIDE = 420;
const unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function buildMap(parent, panel) {
  panel.layers = panel.layers.map(unpack);
  const box = panel.box = make("div", parent, "map");
  make("h3", box, "", "Relevance at each residual point (rows, bottom to top) and token (columns)");
  const frame = make("div", box, "map-frame");
  panel.rowAxis = make("div", frame, "map-rows");
  panel.scroll = make("div", frame, "map-scroll");
  const plot = make("div", panel.scroll, "map-plot");
  panel.canvas = make("canvas", plot);
  panel.canvas.tabIndex = 0;
  panel.canvas.setAttribute("role", "img");
  panel.canvas.setAttribute("aria-label", "Token by layer map; arrow keys move from cell to cell");
  panel.cross = make("div", plot, "cross");
  panel.cross.hidden = true;
  panel.columnAxis = make("div", panel.scroll, "map-columns");
  panel.zoomLabel = make("label", box, "zoom", "zoom ");
  panel.zoom = make("input", panel.zoomLabel);
  Object.assign(panel.zoom, { type: "range", min: 1, max: 24, step: 0.5, value: 1 });
  panel.zoom.addEventListener("input", () => drawMap(panel));
  panel.at = [0, 0];
  listen(panel);
  new ResizeObserver(() => { if (parent.clientWidth !== panel.width) drawMap(panel); }).observe(parent);
}

function listen(panel) {
  const { canvas } = panel;
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    pointCell(panel, Math.floor((event.clientX - box.left) / panel.cell[0]),
      panel.layers.length - 1 - Math.floor((event.clientY - box.top) / panel.cell[1]), event.clientX, event.clientY);
  });
  const out = () => { panel.cross.hidden = true; leave(); };
  canvas.addEventListener("pointerleave", out);
  canvas.addEventListener("blur", out);
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) pointCell(panel, ...panel.at); });
  canvas.addEventListener("click", () => focusToken(panel, strongest(panel, ...panel.at)));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
      Home: [-panel.at[0], 0], End: [panel.bins.length, 0] }[event.key];
    if (event.key === "Enter") focusToken(panel, strongest(panel, ...panel.at));
    if (!step) return;
    event.preventDefault();
    const clamp = (value, most) => Math.max(0, Math.min(most, value));
    pointCell(panel, clamp(panel.at[0] + step[0], panel.bins.length - 1), clamp(panel.at[1] + step[1], panel.layers.length - 1));
    panel.cross.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

// Token with the largest |R| in a bin at a residual point; ordinary tokens first.
function strongest(panel, bin, row) {
  let best = panel.bins[bin][0];
  for (const i of panel.bins[bin]) {
    if (isSpecial(panel, best) || (!isSpecial(panel, i) && Math.abs(panel.layers[row][i]) > Math.abs(panel.layers[row][best]))) best = i;
  }
  return best;
}

function pointCell(panel, bin, row, x, y) {
  if (!(bin >= 0 && bin < panel.bins.length && row >= 0 && row < panel.layers.length)) { panel.cross.hidden = true; return leave(); }
  panel.at = [bin, row];
  const i = strongest(panel, bin, row), [width, height] = panel.cell;
  const left = bin * width, top = (panel.layers.length - 1 - row) * height;
  Object.assign(panel.cross.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  panel.cross.hidden = false;
  link(panel, i);
  const box = panel.canvas.getBoundingClientRect();
  const many = panel.bins[bin].length > 1 ? `\nstrongest of tokens ${panel.bins[bin][0]} to ${panel.bins[bin].at(-1)}` : "";
  const special = isSpecial(panel, i) ? "\nspecial token: outside the scale" : "";
  showTip(x ?? box.left + left + width, y ?? box.top + top, panel.labels[i],
    `${number(panel.layers[row][i])} logits ${panel.points[row]}\ntoken ${i}${many}${special}`);
}

function binTokens(panel, width) {
  const shown = panel.scores.map((_, i) => i).filter((i) => !(state.hideSpecial && isSpecial(panel, i)));
  const count = Math.max(1, Math.min(shown.length, Math.floor(width)));
  panel.bins = Array.from({ length: count }, (_, b) =>
    shown.slice(Math.floor((b * shown.length) / count), Math.floor(((b + 1) * shown.length) / count)));
  if (!shown.length) panel.bins = [[0]];
}

function drawMap(panel) {
  panel.width = panel.box.parentElement.clientWidth;
  if (!panel.width) return;
  const rows = panel.layers.length, tokens = panel.scores.length;
  panel.box.classList.toggle("small", tokens * WIDEST + BESIDE < panel.width); // room for the table beside it
  const room = panel.scroll.clientWidth, fine = tokens * 6 > room;
  panel.zoomLabel.hidden = !fine;
  const wide = fine ? Math.min(room * panel.zoom.value, Math.max(room, tokens * 12), 32000) : panel.box.classList.contains("small") ? tokens * WIDEST : Math.min(room, tokens * WIDEST);
  binTokens(panel, wide);
  const columns = panel.bins.length;
  panel.cell = [wide / columns, Math.max(4, Math.min(14, Math.floor(330 / rows)))];
  Object.assign(panel.canvas, { width: columns, height: rows });
  Object.assign(panel.canvas.style, { width: `${wide}px`, height: `${rows * panel.cell[1]}px` });
  panel.cross.hidden = true;
  const context = panel.canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const one = state.rows === "all" ? Math.max(...panel.layers.map((scores) => largest(panel, scores))) : null;
  panel.layers.forEach((scores, row) => {
    const most = one ?? largest(panel, scores);
    for (let b = 0; b < columns; b++) {
      const i = columns === tokens ? b : strongest(panel, b, row);
      const rgb = isSpecial(panel, i) ? gray() : colour(scores[i] / most);
      const at = 4 * ((rows - 1 - row) * columns + b);
      image.data[at] = rgb[0]; image.data[at + 1] = rgb[1]; image.data[at + 2] = rgb[2]; image.data[at + 3] = 255;
    }
  });
  context.putImageData(image, 0, 0);
  drawAxes(panel, wide);
}

function niceStep(count, room) {
  const rough = count / Math.max(1, room), power = Math.pow(10, Math.floor(Math.log10(Math.max(1, rough))));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough) || 1;
}

function drawAxes(panel, wide) {
  const rows = panel.layers.length, [width, height] = panel.cell, { rowAxis, columnAxis } = panel;
  rowAxis.replaceChildren();
  for (let row = 0, step = panel.step * niceStep(rows / panel.step, (rows * height) / 22); row < rows; row += step) {
    make("span", rowAxis, "", row / panel.step).style.top = `${(rows - row - 0.5) * height}px`;
  }
  columnAxis.replaceChildren();
  columnAxis.style.width = `${wide}px`;
  const named = width >= NAMED && panel.bins.every((bin) => bin.length === 1);
  columnAxis.classList.toggle("named", named);
  const longest = Math.max(...panel.bins.slice(0, 200).map((bin) => panel.labels[bin[0]].length));
  columnAxis.style.height = named ? `${Math.min(7.6, 0.65 * longest) + 0.8}em` : "1.8em";
  const step = named ? 1 : niceStep(panel.bins.length, wide / 64);
  for (let b = 0; b < panel.bins.length; b += step) {
    const mark = make("span", columnAxis, "", named ? panel.labels[panel.bins[b][0]] : panel.bins[b][0]);
    mark.style.left = named ? `${(b + 0.5) * width - 6}px` : `${(b + 0.5) * width}px`;
  }
}
