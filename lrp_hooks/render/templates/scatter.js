// One panel's scores against another's, token by token, where the tokens are the same.

const scatter = { panels: [0, 1], dots: [], at: -1 };
const scatterCanvas = document.getElementById("scatter-canvas");
const panelName = (k) => data.panels[k].title || `panel ${k + 1}`;

function buildScatter() {
  const groups = data.panels.map((panel) => data.panels.filter((other) => sameTokens(panel, other)).length);
  const first = groups.findIndex((count) => count > 1);
  if (first < 0) return;
  const mates = data.panels.map((_, k) => k).filter((k) => sameTokens(data.panels[k], data.panels[first]));
  scatter.panels = mates.slice(0, 2);
  document.getElementById("scatter").hidden = false;
  const axes = document.getElementById("scatter-axes");
  ["→ ", "   ↑ "].forEach((arrow, axis) => {
    if (mates.length === 2) return void make("span", axes, "", arrow + panelName(mates[axis]));
    const select = make("select", make("label", axes, "", arrow));
    for (const k of mates) make("option", select, "", panelName(k)).value = k;
    select.value = mates[axis];
    select.addEventListener("input", () => { scatter.panels[axis] = +select.value; drawScatter(); });
  });
  scatterCanvas.addEventListener("pointermove", (event) => {
    const box = scatterCanvas.getBoundingClientRect();
    let best = -1, distance = 14;
    scatter.dots.forEach(([x, y], k) => {
      const d = Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top);
      if (d < distance) { best = k; distance = d; }
    });
    if (best < 0) leave(); else pointDot(best, event.clientX, event.clientY);
  });
  scatterCanvas.addEventListener("pointerleave", leave);
  scatterCanvas.addEventListener("blur", leave);
  scatterCanvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !scatter.dots.length) return;
    event.preventDefault();
    pointDot(Math.max(0, Math.min(scatter.dots.length - 1, scatter.at + step)));
  });
}

function pointDot(k, x, y) {
  scatter.at = k;
  const [dx, dy, i] = scatter.dots[k], box = scatterCanvas.getBoundingClientRect();
  const [a, b] = scatter.panels.map((p) => data.panels[p]);
  link(a, i);
  const lines = scatter.panels.map((p) => `${panelName(p)}: ${number(data.panels[p].scores[i])} logits`);
  showTip(x ?? box.left + dx, y ?? box.top + dy, a.labels[i], `${lines.join("\n")}\ntoken ${i}`);
}

function ringScatter(panel, i) {
  const ring = scatterCanvas.nextElementSibling;
  const dot = panel && sameTokens(panel, data.panels[scatter.panels[0]]) && scatter.dots.find((d) => d[2] === i);
  ring.hidden = !dot;
  if (dot) Object.assign(ring.style, { left: `${dot[0]}px`, top: `${dot[1]}px` });
}

// Pearson's r.
function correlation(x, y) {
  const mean = (v) => v.reduce((s, a) => s + a, 0) / v.length, mx = mean(x), my = mean(y);
  const dot = (v, w, mv, mw) => v.reduce((s, a, k) => s + (a - mv) * (w[k] - mw), 0);
  const spread = Math.sqrt(dot(x, x, mx, mx) * dot(y, y, my, my));
  return spread ? dot(x, y, mx, my) / spread : NaN;
}

function drawScatter() {
  if (document.getElementById("scatter").hidden) return;
  const [a, b] = scatter.panels.map((p) => data.panels[p]);
  const size = Math.min(440, innerWidth - 80), ratio = devicePixelRatio || 1, middle = size / 2, room = middle - 26;
  scatterCanvas.width = scatterCanvas.height = size * ratio;
  Object.assign(scatterCanvas.style, { width: `${size}px`, height: `${size}px` });
  const c = scatterCanvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  c.scale(ratio, ratio);
  const special = (i) => isSpecial(a, i) || isSpecial(b, i);
  const scores = [a, b].map((p) => { const scale = divisor(p); return p.scores.map((s) => s / scale); });
  const shown = a.ids.map((_, i) => i).filter((i) => !(state.hideSpecial && special(i)));
  const scaled = shown.filter((i) => !special(i));
  const most = Math.max(...scaled.map((i) => Math.max(Math.abs(scores[0][i]), Math.abs(scores[1][i]))), 0) || 1;
  const at = (v) => Math.max(-1.03, Math.min(1.03, v / most)) * room;
  c.strokeStyle = style.getPropertyValue("--line");
  c.strokeRect(middle - room * 1.05, middle - room * 1.05, room * 2.1, room * 2.1);
  for (const [x, y] of [[1, 0], [0, 1], [1, -1]]) {
    c.setLineDash(x && y ? [4, 4] : []);
    c.beginPath(); c.moveTo(middle - x * room, middle - y * room); c.lineTo(middle + x * room, middle + y * room); c.stroke();
  }
  c.setLineDash([]);
  const dim = style.getPropertyValue("--dim");
  c.fillStyle = dim;
  c.font = "11px system-ui, sans-serif";
  c.textAlign = "center";
  const label = number(most, 2).slice(1);
  c.fillText(`−${label}`, middle - room, size - 6); c.fillText("0", middle, size - 6); c.fillText(label, middle + room, size - 6);
  scatter.dots = shown.map((i) => [middle + at(scores[0][i]), middle - at(scores[1][i]), i]);
  c.globalAlpha = shown.length > 400 ? 0.55 : 0.85;
  const sides = [css(end(1)), css(end(-1)), css(gray())];
  for (const [x, y, i] of scatter.dots) {
    const weight = Math.max(Math.abs(scores[0][i]), Math.abs(scores[1][i])) / most;
    const style = special(i) ? sides[2] : weight < 0.02 ? dim : sides[scores[0][i] + scores[1][i] >= 0 ? 0 : 1];
    if (c.fillStyle !== style) c.fillStyle = style;
    if (weight < 0.02) { c.fillRect(x - 1, y - 1, 2, 2); continue; }
    c.beginPath(); c.arc(x, y, 2.2 + 2.6 * Math.sqrt(Math.min(1, weight)), 0, 7); c.fill();
  }
  const r = correlation(scaled.map((i) => scores[0][i]), scaled.map((i) => scores[1][i]));
  document.getElementById("scatter-words").textContent = Number.isNaN(r) ? "" : `· Pearson r = ${r.toFixed(3)} over ${scaled.length} tokens`;
}
