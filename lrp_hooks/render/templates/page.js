"use strict";
// Strings from the prompt are only ever written through textContent and canvas text.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const state = { normalize: data.panels[0].normalize, palette: data.palette, hideSpecial: false, firstSpecial: false };

const make = (tag, parent, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const isSpecial = (panel, i) => panel.special[i] === 1 || (state.firstSpecial && i === 0);
const largest = (panel, scores) =>
  scores.reduce((m, s, i) => (isSpecial(panel, i) ? m : Math.max(m, Math.abs(s))), 0) || 1;

function divisor(panel) {
  if (state.normalize === "none") return 1;
  if (state.normalize === "max") return largest(panel, panel.scores);
  let sum = 0, signed = 0;
  panel.scores.forEach((s, i) => { if (!isSpecial(panel, i)) { sum += Math.abs(s); signed += s; } });
  return (state.normalize === "sum" ? sum : Math.abs(signed)) || 1;
}

function colour(share) {
  const end = share >= 0 ? data.palettes[state.palette].pos : data.palettes[state.palette].neg;
  const weight = Math.pow(Math.min(Math.abs(share), 1), 0.8);
  return end.map((e) => Math.round(255 + (e - 255) * weight));
}
function ink(rgb) {
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 255 / 12.92 : Math.pow((c / 255 + 0.055) / 1.055, 2.4)));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}
const css = (rgb) => `rgb(${rgb.join(",")})`;

function showTip(x, y, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}
const hideTip = () => { tip.hidden = true; };

function describe(panel, i) {
  const share = panel.scores[i] / divisor(panel);
  const shown = state.normalize === "none" ? "" : `\nshare ${(100 * share).toFixed(1)} % (${state.normalize})`;
  const id = panel.ids[i] >= 0 ? ` · id ${panel.ids[i]}` : "";
  const flag = isSpecial(panel, i) ? "\nspecial token: outside the scale" : "";
  return `${panel.tokens[i]}\n${panel.scores[i] >= 0 ? "+" : ""}${panel.scores[i].toPrecision(4)} logits${shown}\ntoken ${i}${id}${flag}`;
}

function link(i) {
  document.querySelectorAll("bdi.linked").forEach((node) => node.classList.remove("linked"));
  if (i === null) return;
  for (const panel of data.panels) panel.nodes[i]?.classList.add("linked");
}

function build() {
  const root = document.getElementById("panels");
  for (const panel of data.panels) {
    const card = make("section", root, "panel");
    if (panel.title) make("h2", card, "", panel.title);
    make("p", card, "caption", panel.caption);
    const flow = make("div", card, "tokens");
    panel.nodes = panel.tokens.map((text, i) => {
      const node = make("bdi", flow, "", text);
      node.tabIndex = -1;
      node.dataset.i = i;
      if (panel.breaks[i]) make("br", flow);
      return node;
    });
    if (panel.nodes.length) panel.nodes[0].tabIndex = 0;
    flow.addEventListener("pointermove", (event) => {
      const i = event.target.dataset?.i;
      if (i === undefined) return hideTip();
      link(+i);
      showTip(event.clientX, event.clientY, describe(panel, +i));
    });
    flow.addEventListener("pointerleave", () => { hideTip(); link(null); });
    flow.addEventListener("focusin", (event) => {
      const i = +event.target.dataset.i;
      const box = event.target.getBoundingClientRect();
      link(i);
      showTip(box.left, box.bottom - 12, describe(panel, i));
    });
    flow.addEventListener("focusout", hideTip);
    flow.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = step && panel.nodes[+document.activeElement.dataset.i + step];
      if (next) { next.focus(); event.preventDefault(); }
    });
    if (panel.layers) buildMap(card, panel);
  }
}

const unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function buildMap(card, panel) {
  panel.layers = panel.layers.map(unpack);
  const box = make("div", card, "map");
  const label = make("div", box, "map-label");
  make("span", label, "", `residual stream after each block (top) down to the embeddings (bottom)`);
  const scroll = make("div", box, "map-scroll");
  panel.canvas = make("canvas", scroll);
  const rows = panel.layers.length, columns = panel.tokens.length;
  panel.cell = [Math.max(1, Math.min(40, Math.floor(620 / columns))), Math.max(3, Math.min(10, Math.floor(260 / rows)))];
  panel.canvas.width = columns;
  panel.canvas.height = rows;
  panel.canvas.style.width = `${columns * panel.cell[0]}px`;
  panel.canvas.style.height = `${rows * panel.cell[1]}px`;
  panel.canvas.addEventListener("pointermove", (event) => {
    const box = panel.canvas.getBoundingClientRect();
    const i = Math.floor((event.clientX - box.left) / panel.cell[0]);
    const point = rows - 1 - Math.floor((event.clientY - box.top) / panel.cell[1]);
    if (i < 0 || i >= columns || point < 0 || point >= rows) return hideTip();
    const where = point ? `after block ${point - 1}` : "before the first block";
    const value = panel.layers[point][i];
    link(i);
    showTip(event.clientX, event.clientY, `${panel.tokens[i]} (token ${i})\n${where}\n${value >= 0 ? "+" : ""}${value.toPrecision(4)} logits`);
  });
  panel.canvas.addEventListener("pointerleave", () => { hideTip(); link(null); });
}

function drawMap(panel) {
  const rows = panel.layers.length, columns = panel.tokens.length;
  const context = panel.canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  panel.layers.forEach((scores, point) => {
    const top = largest(panel, Array.from(scores));
    for (let i = 0; i < columns; i++) {
      const rgb = isSpecial(panel, i) ? data.gray : colour(scores[i] / top);
      image.data.set([...rgb, 255], 4 * ((rows - 1 - point) * columns + i));
    }
  });
  context.putImageData(image, 0, 0);
}

function drawScatter() {
  const [a, b] = data.panels;
  if (data.panels.length !== 2 || a.ids.length !== b.ids.length || a.ids.some((id, i) => id !== b.ids[i])) return;
  document.getElementById("scatter").hidden = false;
  const canvas = document.getElementById("scatter-canvas"), size = 420, ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = size * ratio;
  canvas.style.width = canvas.style.height = `${size}px`;
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  const style = getComputedStyle(document.body);
  const scores = [a, b].map((p) => p.scores.map((s) => s / divisor(p)));
  const shown = a.ids.map((_, i) => i).filter((i) => !(state.hideSpecial && isSpecial(a, i)));
  const reach = 1.1 * Math.max(1e-9, ...shown.map((i) => Math.max(Math.abs(scores[0][i]), Math.abs(scores[1][i]))));
  const at = (v) => size / 2 + (v / reach) * (size / 2 - 20);
  c.strokeStyle = style.getPropertyValue("--line");
  for (const line of [[[-reach, 0], [reach, 0]], [[0, -reach], [0, reach]], [[-reach, -reach], [reach, reach]]]) {
    c.beginPath(); c.moveTo(at(line[0][0]), at(-line[0][1])); c.lineTo(at(line[1][0]), at(-line[1][1])); c.stroke();
  }
  c.fillStyle = style.getPropertyValue("--dim");
  c.font = "12px system-ui, sans-serif";
  c.fillText(`→ ${a.title || "first panel"}`, size / 2 + 40, size - 6);
  c.fillText(`↑ ${b.title || "second panel"}`, 6, 14);
  const dots = shown.map((i) => [at(scores[0][i]), at(-scores[1][i]), i]);
  for (const [x, y, i] of dots) {
    c.fillStyle = isSpecial(a, i) ? css(data.gray) : css(data.palettes[state.palette][scores[0][i] >= 0 ? "pos" : "neg"]);
    c.beginPath(); c.arc(x, y, 4, 0, 7); c.fill();
  }
  canvas.onpointermove = (event) => {
    const box = canvas.getBoundingClientRect();
    const near = dots.map(([x, y, i]) => [Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top), i]);
    const [distance, i] = near.reduce((m, d) => (d[0] < m[0] ? d : m), [Infinity, -1]);
    if (distance > 14) { link(null); return hideTip(); }
    link(i);
    showTip(event.clientX, event.clientY, `${a.tokens[i]} (token ${i})\n${a.title || "first"}: ${a.scores[i].toPrecision(4)}\n${b.title || "second"}: ${b.scores[i].toPrecision(4)}`);
  };
  canvas.onpointerleave = () => { hideTip(); link(null); };
}

function draw() {
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  const [pos, neg] = data.names[state.palette];
  for (const [rgb, words] of [
    [data.palettes[state.palette].pos, `${pos}: supports the target`],
    [data.palettes[state.palette].neg, `${neg}: supports the contrast (speaks against the target)`],
    [data.gray, "gray: special token, outside the scale"],
  ]) {
    const item = make("span", legend);
    make("span", item, "swatch").style.background = css(rgb);
    item.append(words);
  }
  for (const panel of data.panels) {
    const top = largest(panel, panel.scores);
    panel.nodes.forEach((node, i) => {
      const special = isSpecial(panel, i), rgb = special ? data.gray : colour(panel.scores[i] / top);
      node.style.background = css(rgb);
      node.style.color = ink(rgb);
      node.classList.toggle("special", panel.special[i] === 1);
      node.hidden = special && state.hideSpecial;
    });
    if (panel.layers) drawMap(panel);
  }
  drawScatter();
}

const palettes = document.getElementById("palette");
for (const name of Object.keys(data.palettes)) make("option", palettes, "", name).value = name;
palettes.value = state.palette;
document.getElementById("normalize").value = state.normalize;
document.getElementById("controls").addEventListener("input", () => {
  state.normalize = document.getElementById("normalize").value;
  state.palette = palettes.value;
  state.hideSpecial = document.getElementById("special").checked;
  state.firstSpecial = document.getElementById("first").checked;
  draw();
});
build();
draw();
