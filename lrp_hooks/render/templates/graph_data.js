// The graph as typed arrays: nodes by number in (row, column) order, edges strongest first; what is shown of it.

const state = { palette: data.palette, theme: data.theme ?? "auto", threshold: data.start, hideFirst: false, hideSpecial: false, values: false,
  traced: null, path: null, at: null, hover: null, search: "" };

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const integers = (text) => new Int32Array(bytes(text));
const floats = (text) => new Float32Array(bytes(text));

const nodes = { row: integers(data.nodes.row), column: integers(data.nodes.column), relevance: floats(data.nodes.relevance) };
nodes.count = nodes.row.length;
const edges = { lower: integers(data.edges.lower), upper: integers(data.edges.upper), weight: floats(data.edges.weight) };
edges.count = edges.weight.length;
const detail = data.detail && Object.fromEntries(Object.entries(data.detail).map(([k, v]) => [k, k === "head" ? integers(v) : floats(v)]));

const headParts = data.heads ? floats(data.heads) : null; // [edges, heads, 3]: value, key, query
const headCount = headParts && edges.count ? headParts.length / edges.count / 3 : 0;

// Edges by one of their ends: those of node n are items[start[n]] .. items[start[n + 1] - 1], strongest first.
function byEnd(ends) {
  const start = new Int32Array(nodes.count + 1), items = new Int32Array(edges.count);
  for (const n of ends) start[n + 1]++;
  for (let n = 0; n < nodes.count; n++) start[n + 1] += start[n];
  const at = start.slice();
  ends.forEach((n, e) => { items[at[n]++] = e; });
  return (n) => items.subarray(start[n], start[n + 1]);
}
const fromBelow = byEnd(edges.upper), upwards = byEnd(edges.lower);

const key = (row, column) => row * data.labels.length + column;
const nodeAt = new Map(Array.from({ length: nodes.count }, (_, n) => [key(nodes.row[n], nodes.column[n]), n]));
const finals = new Set(data.positions.map((column) => nodeAt.get(key(data.points.length - 1, column))));
const finalNode = [...finals].at(-1);

const firstWord = data.segmented ? "first segment" : "first token";
const mass = (list) => list.reduce((sum, e) => sum + Math.abs(edges.weight[e]), 0);
const allMass = edges.weight.reduce((sum, weight) => sum + Math.abs(weight), 0) || 1;
const shown = { edge: new Uint8Array(edges.count), node: new Uint8Array(nodes.count), edges: new Int32Array(0), mass: 0 };

// Explained columns always stay: without them nothing would be explained.
const explained = new Set(data.positions);
const hidden = (column) => !explained.has(column)
  && ((state.hideFirst && column === 0) || (state.hideSpecial && data.special[column] === 1));

function refilter() {
  shown.edge.fill(0);
  shown.node.fill(0);
  for (const n of finals) shown.node[n] = 1;
  const list = [];
  for (let e = 0; e < edges.count && Math.abs(edges.weight[e]) >= state.threshold; e++) {
    const lower = edges.lower[e], upper = edges.upper[e];
    if (hidden(nodes.column[lower]) || hidden(nodes.column[upper])) continue;
    shown.edge[e] = shown.node[lower] = shown.node[upper] = 1;
    list.push(e);
  }
  shown.edges = Int32Array.from(list);
  shown.mass = mass(shown.edges);
}

// Shown edges that lead to a node from below, and from it upwards.
function flow(node) {
  const lit = { edge: new Uint8Array(edges.count), node: new Uint8Array(nodes.count), edges: [] };
  for (const [near, far] of [[fromBelow, edges.lower], [upwards, edges.upper]]) {
    const seen = new Set([node]);
    for (const n of seen) {
      lit.node[n] = 1;
      for (const e of near(n)) {
        if (!shown.edge[e]) continue;
        lit.edge[e] = 1;
        seen.add(far[e]); // a Set visits what is added while it is walked
      }
    }
  }
  lit.edges = [...lit.edge.keys()].filter((e) => lit.edge[e]);
  return lit;
}

// A path lights up as a whole, also where the threshold hides some of its edges.
function along(path) {
  const lit = { edge: new Uint8Array(edges.count), node: new Uint8Array(nodes.count), edges: [] };
  const chain = path.nodes.map(([point, column]) => nodeAt.get(key(data.points.indexOf(point), column)));
  chain.forEach((n) => { lit.node[n] = 1; });
  for (let k = 1; k < chain.length; k++) {
    const e = fromBelow(chain[k]).find((edge) => edges.lower[edge] === chain[k - 1]);
    lit.edge[e] = 1;
    lit.edges.push(e);
  }
  lit.edges.sort((a, b) => a - b);
  return lit;
}

// What a node sends down: to itself, to the first token, to others. As `AttributionGraph.decomposition`: all kept edges.
function decomposition(node) {
  const parts = { own: 0, first: 0, others: 0 };
  for (const e of fromBelow(node)) {
    const column = nodes.column[edges.lower[e]];
    parts[column === nodes.column[node] ? "own" : column === 0 ? "first" : "others"] += edges.weight[e];
  }
  return parts;
}
