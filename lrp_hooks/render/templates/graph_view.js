// Where things are: columns with gaps, the view (d3's zoom gestures move it), sizes.

const canvas = control("canvas");
const plot = { left: data.points.some((point) => point % 1) ? 62 : 52, right: 14, top: 12, side: 12, bottom: 60, width: 0, height: 0, full: [0, 0] };
const unit = { x: 1, y: 1 }; // pixels per column and row in the whole view
const layout = { columns: [], slot: new Float64Array(data.labels.length), gaps: [], width: 1 };
const view = { kx: 1, ky: 1, tx: 0, ty: 0 };
const MOST_X = 130, MOST_Y = 60, CLOSEST = 150;

const onPath = (n) => state.path !== null && lit !== null && lit.node[n] === 1;

// Columns with a shown node side by side, and a gap wherever tokens are left out. As `arrange` in graph_layout.py.
function arrange() {
  const used = new Uint8Array(data.labels.length);
  for (let n = 0; n < nodes.count; n++) if (shown.node[n] || onPath(n)) used[nodes.column[n]] = 1;
  Object.assign(layout, { columns: [], gaps: [], width: 0 });
  layout.slot.fill(NaN);
  let skipped = 0, first = 0;
  for (let column = 0; column <= used.length; column++) {
    if (column < used.length && !used[column]) { skipped += data.sizes[column]; continue; }
    if (skipped) { layout.gaps.push({ x: layout.width + data.layout.gap / 2, tokens: skipped, first, last: column - 1 }); layout.width += data.layout.gap; }
    if (column < used.length) { layout.slot[column] = layout.width + 0.5; layout.width += 1; layout.columns.push(column); }
    skipped = 0;
    first = column + 1;
  }
  fit();
}

const rowsHigh = () => unit.y * data.points.length;
const mostZoom = () => Math.max(4, CLOSEST / unit.x);

function fit() {
  plot.bottom = labelRoom();
  control("frame").style.maxHeight = `${data.points.length * MOST_Y + plot.top + plot.bottom}px`;
  plot.width = Math.max(40, plot.full[0] - plot.left - plot.right);
  plot.height = Math.max(40, plot.full[1] - plot.top - plot.bottom);
  unit.x = Math.min(MOST_X, plot.width / layout.width);
  unit.y = Math.min(MOST_Y, plot.height / data.points.length);
  zoomer.scaleExtent([1, mostZoom()]);
  settle();
}

// Rows grow with the columns once these are wider than rows are high: a wide graph first unfolds sideways.
const rowZoom = (kx) => Math.max(1, Math.min(kx, (0.7 * unit.x * kx) / unit.y));
const bottom = () => plot.top + plot.height;
const toX = (slot) => plot.left + view.tx + slot * unit.x * view.kx;
const toY = (row) => bottom() + view.ty - (row + 0.5) * unit.y * view.ky;
const columnX = (column) => toX(layout.slot[column]);
const nodeX = (n) => toX(layout.slot[nodes.column[n]]);
const nodeY = (n) => toY(nodes.row[n]);

// Keep the graph in sight; centre it where it is smaller than the plot.
function settle() {
  view.kx = Math.min(view.kx, mostZoom());
  view.ky = rowZoom(view.kx);
  const wide = layout.width * unit.x * view.kx, high = rowsHigh() * view.ky;
  view.tx = wide <= plot.width ? (plot.width - wide) / 2 : Math.min(0, Math.max(plot.width - wide, view.tx));
  view.ty = high <= plot.height ? (high - plot.height) / 2 : Math.max(0, Math.min(high - plot.height, view.ty));
  canvas.classList.toggle("zoomed", view.kx > 1);
}

// d3 reports one transform for both directions; its change since the last one is applied to each by its own scale.
let last = d3.zoomIdentity;
function gesture(event) {
  const now = (event && event.transform ? event : d3.event).transform;
  const s = now.k / last.k, dx = now.x - s * last.x, dy = now.y - s * last.y;
  last = now;
  const before = view.ky;
  view.kx = now.k;
  view.ky = rowZoom(view.kx);
  view.tx = s * (plot.left + view.tx) + dx - plot.left;
  const sy = view.ky / before, shift = s === 1 ? dy : (1 - sy) * (dy / (1 - s));
  view.ty = sy * (bottom() + view.ty) + shift - bottom();
  settle();
  request("view");
}

const zoomer = d3.zoom().on("zoom", gesture)
  .on("start", () => canvas.classList.add("dragging")).on("end", () => canvas.classList.remove("dragging"))
  // one finger, and in a report the wheel, scrolls the page until there is something to pan or ctrl is held
  .filter((event) => { const e = event && event.type ? event : d3.event; return !e.button && !(data.embedded && e.type === "wheel" && !e.ctrlKey) && (e.type !== "touchstart" || e.touches.length > 1 || view.kx > 1); });
const surface = d3.select(canvas).call(zoomer).on("dblclick.zoom", null);

function setView(kx, tx, ty) {
  Object.assign(view, { kx, tx, ty });
  settle();
  last = d3.zoomIdentity.scale(view.kx);
  surface.property("__zoom", last);
  request("view");
}
const resetView = () => setView(1, 0, 0);
const zoomBy = (factor) => surface.call(zoomer.scaleBy, factor);

// Bring a node or column into the middle, close enough to read its label.
function centre(column, row) {
  const kx = Math.max(view.kx, Math.min(mostZoom(), 26 / unit.x));
  const ty = row === undefined ? view.ty : (row + 0.5) * unit.y * rowZoom(kx) - plot.height / 2;
  setView(kx, plot.width / 2 - layout.slot[column] * unit.x * kx, ty);
}
const edgeInSight = (e) => {
  const x0 = nodeX(edges.lower[e]), x1 = nodeX(edges.upper[e]), right = plot.left + plot.width;
  return Math.max(x0, x1) >= plot.left && Math.min(x0, x1) <= right && nodeY(edges.lower[e]) >= 0 && nodeY(edges.upper[e]) <= bottom();
};
const nodeInSight = (n) => { const x = nodeX(n), y = nodeY(n); return x > plot.left - 12 && x < plot.left + plot.width + 12 && y > -12 && y < bottom() + 12; };
const inSight = (x, y) => x >= plot.left && x <= plot.left + plot.width && y >= 0 && y <= bottom();

// Sizes as in graph_layout.py.
// Where columns are narrower than rows are high, neighbours in a row are rarely both there: nodes may be larger.
const spacing = () => { const [x, y] = [unit.x * view.kx, unit.y * view.ky]; return Math.min(y, Math.sqrt(x * y), Math.max(x, y)); };
function radius(share, apart = spacing()) {
  const [least, most, cap] = data.layout.node, largest = Math.max(1.3, Math.min(most * apart, cap));
  return largest * (least / most + (1 - least / most) * Math.sqrt(Math.min(share, 1)));
}
function edgeWidth(share, apart = spacing()) {
  const [least, cap, relative] = data.layout.edge, most = Math.max(least, Math.min(cap, relative * radius(1, apart)));
  return least + (most - least) * Math.pow(Math.min(share, 1), data.layout.edgePower);
}
const nodeShare = (n) => nodes.relevance[n] / data.scales.node;
const edgeShare = (e) => edges.weight[e] / data.scales.edge;
