// Panels, running text, tables, and the link between them.

const sameTokens = (a, b) => a.ids.length === b.ids.length && a.ids.every((id, i) => id === b.ids[i]);
let linked = [];

function describe(panel, i) {
  const id = panel.ids[i] >= 0 ? ` · id ${panel.ids[i]}` : "";
  const lines = [`${number(panel.scores[i])} logits`];
  if (isSpecial(panel, i)) lines.push("special token: outside the scale");
  else {
    if (state.normalize !== "none") lines.push(`${number(panel.scores[i] / divisor(panel), 3)} on the scale (${state.normalize})`);
    lines.push(`${(100 * Math.abs(panel.scores[i]) / panel.sums.absolute).toFixed(1)} % of sum |R| · rank ${panel.rank[i]}`);
  }
  lines.push(`token ${i}${id}`);
  return lines.join("\n");
}

// Outline token i in this panel, and in those with the same tokens; null clears.
function link(panel, i) {
  for (const node of linked) node.classList.remove("linked");
  linked = [];
  for (const other of data.panels) {
    if (i !== null && (other === panel || sameTokens(panel, other))) {
      const node = other.nodes[i];
      node.classList.add("linked");
      linked.push(node);
    }
  }
  ringScatter(panel, i);
}

function point(panel, i, x, y) {
  link(panel, i);
  showTip(x, y, panel.labels[i], describe(panel, i));
}
function leave() { hideTip(); link(null, null); }

function focusToken(panel, i) {
  panel.nodes.forEach((node) => { if (node.tabIndex === 0) node.tabIndex = -1; });
  panel.nodes[i].tabIndex = 0;
  panel.nodes[i].focus();
  panel.nodes[i].scrollIntoView({ block: "nearest" });
}

function buildTokens(card, panel) {
  const flow = make("div", card, "tokens");
  flow.setAttribute("role", "group");
  flow.setAttribute("aria-label", "Tokens; arrow keys move");
  const runs = new Map(panel.runs);
  flow.classList.toggle("long", panel.tokens.length > 2000);
  let line = make("div", flow), parent = line, stop = -1;
  panel.nodes = panel.tokens.map((text, i) => {
    if (i && panel.tokens[i - 1].endsWith("\n")) parent = line = make("div", flow);
    if (i === stop) parent = line;
    if (runs.has(i)) { parent = make("bdi", line); stop = runs.get(i); } // a right-to-left run is isolated as a whole
    const node = make("span", parent, panel.pieces[i] ? "piece" : "", text);
    node.dataset.i = i;
    node.tabIndex = i ? -1 : 0;
    return node;
  });
  const index = (event) => (event.target.dataset && event.target.dataset.i !== undefined ? +event.target.dataset.i : null);
  flow.addEventListener("pointermove", (event) => {
    const i = index(event);
    if (i === null) leave(); else point(panel, i, event.clientX, event.clientY);
  });
  flow.addEventListener("pointerleave", leave);
  flow.addEventListener("focusin", (event) => {
    const i = index(event), box = event.target.getBoundingClientRect();
    if (i !== null && event.target.matches(":focus-visible")) point(panel, i, box.left, box.bottom - 14);
  });
  flow.addEventListener("focusout", leave);
  flow.addEventListener("keydown", (event) => {
    const at = index(event), last = panel.nodes.length - 1;
    let to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    while (to > 0 && to < last && panel.nodes[to].hidden) to += event.key === "ArrowLeft" || event.key === "End" ? -1 : 1;
    if (at === null || to === undefined || !panel.nodes[to] || panel.nodes[to].hidden) return;
    focusToken(panel, to);
    event.preventDefault();
  });
}

function build() {
  const root = document.getElementById("panels");
  for (const panel of data.panels) {
    const card = make("section", root, "card");
    if (panel.title && (data.panels.length > 1 || panel.title !== data.title)) make("h2", card, "", panel.title);
    make("p", card, "caption", panel.caption);
    buildTokens(card, panel);
    const detail = make("div", card, "detail");
    if (panel.layers) buildMap(detail, panel);
    const top = make("div", detail, "top");
    make("h3", top, "", "Strongest tokens");
    panel.table = make("table", top);
    make("p", top, "caption", panel.totals);
  }
}

function rankTokens(panel) {
  panel.sums = sums(panel);
  panel.order = panel.scores.map((_, i) => i).filter((i) => !isSpecial(panel, i));
  panel.order.sort((a, b) => Math.abs(panel.scores[b]) - Math.abs(panel.scores[a]));
  panel.rank = [];
  panel.order.forEach((i, place) => { panel.rank[i] = place + 1; });
}

function drawTable(panel) {
  panel.table.replaceChildren();
  const head = make("tr", make("thead", panel.table));
  const unit = state.normalize === "none" ? "share" : "scaled";
  for (const [name, css] of [["#"], ["token", "word"], ["index"], ["logits"], [unit], ["", "bar"]]) make("th", head, css, name).scope = "col";
  const body = make("tbody", panel.table), most = largest(panel, panel.scores);
  for (const i of panel.order.slice(0, 10)) {
    const row = make("tr", body), score = panel.scores[i];
    make("td", row, "", panel.rank[i]);
    const button = make("button", make("td", row, "word"), "", "");
    make("bdi", button, "", panel.labels[i]);
    button.type = "button";
    button.addEventListener("click", () => focusToken(panel, i));
    make("td", row, "", i);
    make("td", row, "", number(score, 3));
    const share = state.normalize === "none" ? `${(100 * Math.abs(score) / panel.sums.absolute).toFixed(1)} %` : number(score / divisor(panel), 3);
    make("td", row, "", share);
    const bar = make("i", make("td", row, "bar"));
    bar.style.width = `${100 * Math.abs(score) / most}%`;
    bar.style.background = css(end(score));
    row.addEventListener("pointermove", (event) => point(panel, i, event.clientX, event.clientY));
    row.addEventListener("pointerleave", leave);
  }
}

function drawTokens(panel) {
  const scale = divisor(panel) * reach(panel), plain = ground();
  panel.nodes.forEach((node, i) => {
    const special = isSpecial(panel, i), share = panel.scores[i] / scale;
    const rgb = special ? gray() : colour(share);
    node.style.background = special || Math.abs(share) > 0.004 ? css(rgb) : "";
    node.style.color = special || Math.abs(share) > 0.004 ? ink(rgb) : "";
    node.classList.toggle("special", panel.special[i] === 1);
    node.hidden = special && state.hideSpecial;
  });
  panel.ground = plain;
}
