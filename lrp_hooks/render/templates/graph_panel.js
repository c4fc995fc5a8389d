// Words about a node, edge, gap or column; the panel of the chosen node; the list of paths.

const MOST_LISTED = 8, MOST_HEADS = 3;
const fixed = (value) => number(value, 3);
const nodeName = (n) => data.labels[nodes.column[n]];
const place = (n) => `${data.places[nodes.column[n]]}, residual point ${data.points[nodes.row[n]]}`;
const percent = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`;
const count = (list, what) => `${list.length} ${what}${list.length === 1 ? "" : "s"}`;
const nodeWords = (n) => `${nodeName(n)}: ${number(nodes.relevance[n])} logits; ${place(n)}`;
const edgeWords = (e) => `${nodeName(edges.lower[e])} → ${nodeName(edges.upper[e])}: ${number(edges.weight[e])} logits`;
const gapWords = (gap) => `${gap.tokens} token${gap.tokens === 1 ? "" : "s"} without a node left out`;

function tipWords(found) {
  if (found.kind === "gap") return [gapWords(found.gap), ""];
  if (found.kind === "column") return [data.labels[found.column], `${data.places[found.column]}${data.special[found.column] ? "\nspecial token" : ""}`];
  return found.kind === "node" ? [nodeName(found.node), nodeFacts(found.node)] : edgeTip(found.edge);
}

function nodeFacts(n) {
  const into = fromBelow(n).filter((e) => shown.edge[e]), out = upwards(n).filter((e) => shown.edge[e]), parts = decomposition(n);
  const lines = [`${number(nodes.relevance[n])} logits`, `${place(n)} (${data.pointNames[nodes.row[n]]})`];
  if (finals.has(n)) lines.push(finals.size === 1 ? "the explained node" : `one of ${finals.size} explained nodes`);
  lines.push(`${count(into, "edge")} from below, ${count(out, "edge")} upwards`);
  const sent = [["itself", parts.own], [firstWord, parts.first], ["others", parts.others]].filter(([, value]) => value);
  if (sent.length) lines.push(`sent down: ${sent.map(([to, value]) => `${to} ${fixed(value)}`).join(", ")}`);
  return lines.join("\n");
}

function edgeTip(e) {
  const lower = edges.lower[e], upper = edges.upper[e];
  const lines = [`${number(edges.weight[e])} logits, ${percent(Math.abs(edges.weight[e]), allMass)} of all |weight|`,
    `from ${place(lower)}`, `to ${place(upper)}`];
  if (detail) {
    const [value, keyed, query] = ["value", "key", "query"].map((part) => detail[part][e]);
    lines.push(`value ${fixed(value)}, key ${fixed(keyed)}, query ${fixed(query)}, rest ${fixed(edges.weight[e] - value - keyed - query)}`);
    if (headParts) lines.push(...headLines(e));
    else if (detail.head[e] >= 0) lines.push(`strongest head ${detail.head[e]}: ${fixed(detail.head_weight[e])}`);
  }
  return [`${nodeName(lower)} → ${nodeName(upper)}`, lines.join("\n")];
}

// The heads that an edge runs through, and by which paths.
function headLines(e) {
  const heads = Array.from({ length: headCount }, (_, h) => [h, ...headParts.subarray((e * headCount + h) * 3, (e * headCount + h) * 3 + 3)]);
  const whole = ([, ...parts]) => parts.reduce((sum, part) => sum + part, 0);
  return heads.filter((head) => whole(head)).sort((a, b) => Math.abs(whole(b)) - Math.abs(whole(a))).slice(0, MOST_HEADS)
    .map(([h, ...parts]) => `head ${h}: ${["value", "key", "query"].map((name, k) => (parts[k] ? `${name} ${fixed(parts[k])}` : "")).filter(Boolean).join(", ")}`);
}

function showNode(n) {
  const box = control("status");
  box.replaceChildren();
  control("node").dataset.node = n ?? "";
  if (n === null) { make("p", box, "caption", "Hover, click or use the arrow keys to choose a node."); return; }
  make("bdi", make("div", box, "name"), "", nodeName(n));
  const listed = state.traced === n && lit ? `\ntraced: ${count(lit.edges, "edge")} in ${count([...lit.node].filter(Boolean), "node")}` : "";
  make("div", box, "facts", nodeFacts(n) + listed);
  listEdges(box, "from below", fromBelow(n), edges.lower);
  listEdges(box, "upwards", upwards(n), edges.upper);
}

function listEdges(box, title, all, far) {
  const list = all.filter((e) => shown.edge[e]);
  if (!list.length) return;
  const table = make("table", box), head = make("tr", make("thead", table)), body = make("tbody", table);
  for (const text of [title, "logits"]) make("th", head, "", text).scope = "col";
  for (const e of list.slice(0, MOST_LISTED)) {
    const row = make("tr", body), button = make("button", make("td", row), "");
    button.type = "button";
    make("bdi", button, "", nodeName(far[e]));
    make("span", button, "range", ` ${data.places[nodes.column[far[e]]]}`);
    button.addEventListener("click", () => { moveTo(far[e]); canvas.focus({ preventScroll: true }); });
    make("td", row, "", fixed(edges.weight[e])).style.color = css(end(edges.weight[e]));
  }
  if (list.length > MOST_LISTED) make("td", make("tr", body), "range", `and ${list.length - MOST_LISTED} more`);
}

function listPaths() {
  control("paths").hidden = !data.paths.length;
  data.paths.forEach((path, index) => {
    const button = make("button", make("li", control("paths").lastElementChild));
    button.type = "button";
    make("span", button, "share", `${path.strength < 0 ? "−" : "+"}${Math.abs(100 * path.strength).toFixed(Math.abs(path.strength) < 0.1 ? 2 : 1)} %`);
    const way = make("span", button, "way");
    path.stays.forEach(([column, from, to], k) => {
      if (k) way.append(" → ");
      make("bdi", way, "", short(data.labels[column], 40));
      make("span", way, "range", ` ${from === to ? from : `${from}–${to}`}`);
    });
    button.addEventListener("click", () => choosePath(index));
  });
  markPath();
}
function markPath() {
  [...control("paths").querySelectorAll("button")].forEach((button, index) => button.setAttribute("aria-pressed", String(index === state.path)));
}
