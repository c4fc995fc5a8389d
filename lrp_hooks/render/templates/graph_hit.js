// What is under the pointer.

const NEAR = 6; // pixels

function hit(x, y) {
  if (x < plot.left - plot.side || x > plot.left + plot.width + plot.right) return null;
  if (y > bottom() + 3) return hitLabel(x, y);
  const node = hitNode(x, y);
  if (node !== null) return { kind: "node", node, row: nodes.row[node], column: nodes.column[node] };
  const edge = hitEdge(x, y);
  if (edge !== null) return { kind: "edge", edge };
  return hitGap(x);
}

const visible = (n) => shown.node[n] || (lit && lit.node[n]);

function hitNode(x, y) {
  let best = null, distance = Infinity;
  const row = Math.round((bottom() + view.ty - y) / (unit.y * view.ky) - 0.5);
  for (let n = firstOf(row - 1); n < firstOf(row + 2); n++) {
    if (!visible(n)) continue;
    const d = Math.hypot(nodeX(n) - x, nodeY(n) - y) - radius(Math.abs(nodeShare(n)));
    if (d < distance) { best = n; distance = d; }
  }
  return distance < Math.min(NEAR, 0.35 * spacing() + 2) ? best : null;
}
const firstOf = (row) => d3.bisectLeft(nodes.row, row);

// Along a vertical link x = x0 + (x1 - x0) h(t), y = y0 + (y1 - y0) v(t): the t at the pointer's height, then the distance.
function hitEdge(x, y) {
  let best = null, distance = NEAR;
  const height = (bottom() + view.ty - y) / (unit.y * view.ky) - 0.5; // in rows
  const span = new Map();
  const candidates = lit ? lit.edges : shown.edges;
  for (const e of candidates) {
    const low = nodes.row[edges.lower[e]], high = nodes.row[edges.upper[e]];
    if (low > height || high < height) continue;
    const x0 = nodeX(edges.lower[e]), wide = nodeX(edges.upper[e]) - x0;
    const tag = low * 100000 + high;
    if (!span.has(tag)) span.set(tag, onLink((height - low) / (high - low), (high - low) * unit.y * view.ky));
    const at = span.get(tag), slope = (wide * at.dh) / at.dv;
    const d = Math.abs(x - x0 - wide * at.h) / Math.hypot(1, slope);
    if (d < distance) { best = e; distance = d; }
  }
  return best;
}

function onLink(v, high) {
  let low = 0, top = 1;
  for (let k = 0; k < 30; k++) {
    const t = (low + top) / 2;
    if (1.5 * t * (1 - t) + t ** 3 < v) low = t; else top = t;
  }
  const t = (low + top) / 2;
  return { h: t * t * (3 - 2 * t), dh: 6 * t * (1 - t), dv: (1.5 - 3 * t + 3 * t * t) * high };
}

function hitGap(x) {
  const gap = layout.gaps.find((g) => Math.abs(toX(g.x) - x) < Math.max(3, 0.5 * data.layout.gap * unit.x * view.kx));
  return gap ? { kind: "gap", gap } : null;
}

// Slanted labels: go up along the slant to the column they belong to.
function hitLabel(x, y) {
  const straight = x + (y - bottom() - 7) / Math.tan(-SLANT) * (lieFlat(unit.x * view.kx, layout.columns) ? 0 : 1);
  let best = null, distance = Math.max(7, 0.5 * unit.x * view.kx);
  for (const column of layout.columns) {
    const d = Math.abs(columnX(column) - straight);
    if (d < distance) { best = column; distance = d; }
  }
  return best === null ? hitGap(x) : { kind: "column", column: best };
}
