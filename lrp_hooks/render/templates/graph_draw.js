// Edges, nodes, axes, gaps: drawn with a pen, which is a canvas context or an SvgPen.

const SANS = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif';
const MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';
const LABEL_STEP = 13, SLANT = -0.96, LONGEST = 17; // pixels between labels, their angle, characters
const inks = {}; // colours of the theme, read once per change of theme

function readTheme() {
  document.documentElement.dataset.theme = ground();
  const style = getComputedStyle(document.documentElement);
  for (const name of ["fg", "dim", "line", "card", "focus"]) inks[name] = style.getPropertyValue(`--${name}`).trim();
  inks.side = [css(end(1)), css(end(-1))];
}
const side = (value) => inks.side[value >= 0 ? 0 : 1];

// Vertical link; a token's link to itself is a plain line, which is cheaper.
const link = d3.linkVertical();
function drawEdge(pen, e, dim, strong) {
  const share = Math.abs(edgeShare(e)), x0 = nodeX(edges.lower[e]), y0 = nodeY(edges.lower[e]), x1 = nodeX(edges.upper[e]), y1 = nodeY(edges.upper[e]);
  pen.globalAlpha = dim ? 0.07 : strong ? 0.95 : Math.min(0.9, 0.34 + 0.6 * Math.sqrt(share));
  pen.lineWidth = edgeWidth(share) + (strong ? 0.6 : 0);
  pen.strokeStyle = side(edges.weight[e]);
  pen.beginPath();
  if (x0 === x1) { pen.moveTo(x0, y0); pen.lineTo(x1, y1); } else link.context(pen)({ source: [x0, y0], target: [x1, y1] });
  if (pen.title) pen.title(edgeWords(e));
  pen.stroke();
}

function drawNode(pen, n, dim) {
  const x = nodeX(n), y = nodeY(n), value = nodes.relevance[n], share = nodeShare(n), r = radius(Math.abs(share));
  pen.globalAlpha = dim ? 0.16 : 1;
  pen.strokeStyle = side(value);
  pen.lineWidth = r > 3 ? 1.1 : 0.6;
  pen.fillStyle = css(colour(share));
  pen.beginPath();
  pen.arc(x, y, r, 0, 2 * Math.PI);
  pen.fill();
  if (pen.title) pen.title(nodeWords(n));
  pen.stroke();
  if (finals.has(n)) { pen.strokeStyle = inks.fg; pen.lineWidth = 1.4; pen.beginPath(); pen.arc(x, y, r + 3, 0, 2 * Math.PI); pen.stroke(); }
  if (placed.has(n)) drawValue(pen, n, x + r + (finals.has(n) ? 6 : 2.5), y, dim);
}

const valueText = (n) => { const v = nodes.relevance[n], a = Math.abs(v); return (v < 0 ? "−" : "") + (a >= 9.95 ? a.toFixed(0) : a >= 0.095 ? a.toFixed(1) : a.toFixed(2)); };
function drawValue(pen, n, x, y, dim) {
  pen.globalAlpha = dim ? 0.25 : 1;
  pen.font = `9.5px ${SANS}`;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.fillStyle = inks.fg;
  pen.fillText(valueText(n), x, y);
}

// Nodes whose value is written beside them: the largest first, none over another or over a larger node.
let placed = new Set();
function placeValues(list) {
  placed = new Set();
  if (!state.values || unit.y * view.ky < 8) return;
  const taken = new Map();
  for (const n of [...list].sort((a, b) => Math.abs(nodes.relevance[b]) - Math.abs(nodes.relevance[a]))) {
    const x = nodeX(n), y = nodeY(n);
    if (!inSight(x, y)) continue;
    const row = Math.round(y / 10), boxes = taken.get(row) || [], r = radius(Math.abs(nodeShare(n)));
    const from = x - r, to = x + r + 4 + 5.6 * valueText(n).length;
    if (boxes.some(([a, b]) => from < b && a < to)) continue;
    placed.add(n);
    taken.set(row, [...boxes, [from, to]]);
  }
}

const short = (text, most = LONGEST) => { const characters = [...text]; return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text; };

// Columns that get a label: those that are searched for, then the most relevant, as far apart as letters are high.
function labelled() {
  const weight = (column) => (found.has(column) ? 1e9 : 0) + (explained.has(column) ? 1e8 : 0) + (columnMass.get(column) || 0);
  const visible = layout.columns.filter((column) => inSight(columnX(column), 1)), step = unit.x * view.kx;
  if (step >= LABEL_STEP) return visible;
  const kept = new Map(), out = []; // kept: places of labels by bin
  for (const column of [...visible].sort((a, b) => weight(b) - weight(a))) {
    const x = columnX(column), bin = Math.floor(x / LABEL_STEP);
    if ([bin - 1, bin, bin + 1].some((b) => kept.has(b) && Math.abs(kept.get(b) - x) < LABEL_STEP)) continue;
    kept.set(bin, x);
    out.push(column);
  }
  return out;
}
let columnMass = new Map(), found = new Set();

function drawColumns(pen) {
  const step = unit.x * view.kx, y = bottom() + 7, list = labelled();
  pen.globalAlpha = 1;
  pen.font = `11px ${MONO}`;
  pen.textBaseline = "middle";
  const flat = lieFlat(step, list);
  for (const column of list) {
    const marked = found.has(column) || (state.hover && state.hover.column === column);
    pen.font = `${marked ? "700 " : ""}11px ${MONO}`;
    pen.fillStyle = marked || explained.has(column) ? inks.fg : inks.dim;
    if (pen.title) pen.title(`${data.labels[column]}, ${data.places[column]}`);
    pen.save();
    pen.translate(columnX(column), y);
    if (flat) { pen.textAlign = "center"; pen.fillText(short(data.labels[column]), 0, 8); }
    else { pen.textAlign = "right"; pen.rotate(SLANT); pen.fillText(short(data.labels[column]), 0, 0); }
    pen.restore();
  }
}

const letters = (columns) => Math.max(1, ...columns.map((column) => Math.min(LONGEST, [...data.labels[column]].length)));
const lieFlat = (step, columns) => letters(columns) * 6.7 < step - 8;
// Height that the labels below the plot need.
function labelRoom() {
  const step = Math.min(MOST_X, (plot.full[0] - plot.left - plot.right) / layout.width);
  return lieFlat(step, layout.columns) ? 32 : 20 + Math.ceil(letters(layout.columns) * 6.7 * Math.sin(-SLANT));
}

function drawRows(pen) {
  const every = niceStep(data.points.length, plot.height * view.ky / 20);
  pen.font = `10.5px ${SANS}`;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.lineWidth = 1;
  data.points.forEach((point, row) => {
    const y = toY(row);
    if (row % every || y < plot.top - 4 || y > bottom() + 1) return;
    pen.globalAlpha = 0.5;
    pen.strokeStyle = inks.line;
    pen.beginPath(); pen.moveTo(plot.left, y); pen.lineTo(plot.left + plot.width, y); pen.stroke();
    pen.globalAlpha = 1;
    pen.fillStyle = state.hover && state.hover.row === row ? inks.fg : inks.dim;
    if (pen.title) pen.title(data.pointNames[row]);
    pen.fillText(String(point), plot.left - plot.side - 6, y);
  });
  pen.save();
  pen.translate(10, plot.top + plot.height / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillStyle = inks.dim;
  pen.fillText("residual point", 0, 0);
  pen.restore();
}

function drawGaps(pen) {
  const wide = data.layout.gap * unit.x * view.kx;
  pen.font = `9px ${SANS}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const gap of layout.gaps) {
    const x = toX(gap.x);
    if (!inSight(x, 1)) continue;
    pen.globalAlpha = wide >= 6 ? 0.9 : 0.35;
    pen.strokeStyle = inks.line;
    pen.lineWidth = 1;
    pen.setLineDash([2, 4]);
    pen.beginPath(); pen.moveTo(x, plot.top); pen.lineTo(x, bottom()); pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
    pen.fillStyle = inks.dim;
    if (pen.title) pen.title(gapWords(gap));
    if (wide >= 5.2 * (String(gap.tokens).length + 1)) pen.fillText(`+${gap.tokens}`, x, bottom() + 8);
    else if (wide >= 3) pen.fillText("⋮", x, bottom() + 8);
  }
}

function drawMarks(pen) {
  pen.fillStyle = inks.focus;
  pen.globalAlpha = 0.1;
  const wide = Math.max(3, unit.x * view.kx * 0.8);
  for (const column of found) if (inSight(columnX(column), 1)) pen.fillRect(columnX(column) - wide / 2, plot.top, wide, plot.height);
  pen.globalAlpha = 1;
}

function niceStep(count, room) {
  const rough = count / Math.max(1, room), power = Math.pow(10, Math.floor(Math.log10(Math.max(1, rough))));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough) || 1;
}
