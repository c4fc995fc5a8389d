// When what is drawn. Nodes and edges go to a layer of their own, strongest first, a slice per frame that is laid under
// the earlier ones: a frame stays short however large the graph is. Until a layer is complete the old one moves along.
// (Drawing each edge under the others, without a canvas for the slice, takes five times as long.)

const layer = { front: document.createElement("canvas"), back: document.createElement("canvas"), slice: document.createElement("canvas"), view: null, job: null };
const dirty = { view: false, style: false, frame: 0 };
const slice = { size: 1500, last: 0, full: false, least: 300, most: 60000 }; // size: what a frame may draw
let lit = null; // {edge, node, edges}: what a trace or a path lights up; the rest is dimmed

// "paint": only what lies above the layer has changed; "view": it has moved; "style": it looks different.
function request(kind) {
  if (kind !== "paint") dirty[kind] = true;
  if (!dirty.frame) dirty.frame = requestAnimationFrame(frame);
}

function frame(now) {
  dirty.frame = 0;
  if (!canvas.width || !canvas.height) return; // out of sight, in a frame that is not laid out: resize() asks again
  pace(now);
  if (dirty.style) begin(true);
  else if (dirty.view && !layer.job) begin(false);
  if (layer.job) advance();
  paint();
  if (layer.job || dirty.view || dirty.style) request("paint"); else slice.last = 0;
}

// Drawing commands run later than the script that gives them: the time between frames shows what a full slice costs.
function pace(now) {
  if (slice.full && slice.last) {
    const took = now - slice.last;
    const factor = took > 40 ? 0.7 : took > 30 ? 0.9 : took < 20 ? 1.15 : 1;
    slice.size = Math.max(slice.least, Math.min(slice.most, slice.size * factor));
  }
  slice.last = now;
}

// What is in sight, top first: lit nodes and edges, then the others. Edges are stored as -1 - e.
function queue() {
  const shownNodes = [], first = [], second = [];
  for (let n = 0; n < nodes.count; n++) if (visible(n) && nodeInSight(n)) shownNodes.push(n);
  for (const n of shownNodes) (!lit || lit.node[n] ? first : second).push(n);
  if (lit) for (const e of lit.edges) if (edgeInSight(e)) first.push(-1 - e);
  for (const e of shown.edges) if (!(lit && lit.edge[e]) && edgeInSight(e)) second.push(-1 - e);
  placeValues(lit ? first.filter((item) => item >= 0) : shownNodes);
  return first.concat(second);
}

function drawItem(pen, item) {
  return item >= 0 ? drawNode(pen, item, lit !== null && !lit.node[item])
    : drawEdge(pen, -1 - item, lit !== null && !lit.edge[-1 - item], lit !== null && lit.edge[-1 - item] === 1);
}

function begin(restyle) {
  dirty.view = dirty.style = false;
  clear(layer.back).globalCompositeOperation = "destination-over";
  layer.job = { items: queue(), at: 0, view: { ...view }, canvas: layer.back };
  if (restyle) swap(); // a new look shows at once, what is strongest first
}

function swap() {
  [layer.front, layer.back] = [layer.back, layer.front];
  layer.view = layer.job.view;
}

function advance() {
  const { job } = layer, now = { ...view }, pen = clear(layer.slice);
  Object.assign(view, job.view);
  const stop = Math.min(job.items.length, job.at + Math.round(slice.size));
  pen.scale(pixelRatio(), pixelRatio());
  for (let k = stop - 1; k >= job.at; k--) drawItem(pen, job.items[k]);
  job.canvas.getContext("2d").drawImage(layer.slice, 0, 0);
  Object.assign(view, now);
  slice.full = stop - job.at >= Math.floor(slice.size);
  job.at = stop;
  if (job.at < job.items.length) return;
  if (layer.front !== job.canvas) swap();
  layer.job = null;
}

function clear(sheet) {
  Object.assign(sheet, { width: plot.full[0] * pixelRatio(), height: plot.full[1] * pixelRatio() });
  return sheet.getContext("2d");
}

const pixelRatio = () => Math.min(2, devicePixelRatio || 1);

function clipPlot(pen) {
  pen.beginPath();
  pen.rect(plot.left - plot.side, 0, plot.width + plot.side + plot.right, bottom() + 4);
  pen.clip();
}

function paint() {
  const pen = canvas.getContext("2d"), ratio = pixelRatio();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.globalAlpha = 1;
  pen.clearRect(0, 0, ...plot.full);
  drawGround(pen);
  pen.save();
  clipPlot(pen);
  if (layer.view) {
    const was = layer.view, sx = view.kx / was.kx, sy = view.ky / was.ky;
    pen.drawImage(layer.front, plot.left + view.tx - sx * (plot.left + was.tx), bottom() + view.ty - sy * (bottom() + was.ty),
      plot.full[0] * sx, plot.full[1] * sy);
  }
  drawPointed(pen);
  pen.restore();
}

function drawGround(pen) {
  drawRows(pen);
  drawGaps(pen);
  drawMarks(pen);
  drawColumns(pen);
}

// The node or edge under the pointer, with the node's own edges, above everything.
function drawPointed(pen) {
  const { hover, at } = state;
  if (hover && hover.kind === "edge") drawEdge(pen, hover.edge, false, true);
  const n = hover && hover.kind === "node" ? hover.node : at;
  if (n === null || n === undefined || !(shown.node[n] || (lit && lit.node[n]))) return;
  for (const e of [...fromBelow(n), ...upwards(n)].reverse()) if (shown.edge[e] && (!lit || lit.edge[e] || hover)) drawEdge(pen, e, false, true);
  drawNode(pen, n, false);
  pen.globalAlpha = 1;
  pen.strokeStyle = inks.focus;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(nodeX(n), nodeY(n), radius(Math.abs(nodeShare(n))) + 3, 0, 2 * Math.PI);
  pen.stroke();
}

function resize() {
  const box = control("frame"), ratio = pixelRatio();
  plot.full = [box.clientWidth, box.clientHeight];
  Object.assign(canvas, { width: plot.full[0] * ratio, height: plot.full[1] * ratio });
  fit();
  request("style");
}
