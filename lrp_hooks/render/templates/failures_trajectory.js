// Differences from model to model: a line per case, their mean, and the share that still makes the error.

const TALL = 340, LEFT = 52, RIGHT = 24, STEP = [90, 150];

function buildTrajectory(root) {
  const made = data.trajectory;
  if (!made) return;
  const card = make("section", root, "card");
  make("h2", card, "", "From model to model");
  make("p", card, "caption", `logit(target) − logit(contrast) of ${made.cases.length} cases that all models have; below 0 the contrast is preferred. Thick: mean with 95 % interval. Under each model: share that makes the error.`);
  const count = made.models.length, step = Math.max(STEP[0], Math.min(STEP[1], 760 / count));
  const { canvas, pen } = sheet(make("div", card, "scroll"), LEFT + RIGHT + step * count, TALL, `${made.cases.length} cases over ${count} models; the tables above have the means`);
  const values = made.cases.flatMap((line) => line.slice(1)), low = Math.min(0, ...values), high = Math.max(0, ...values);
  const x = (k) => LEFT + (k + 0.5) * step, floor = TALL - 46;
  const y = (v) => floor - 8 - ((v - low) / (high - low || 1)) * (floor - 24);
  drawAxes(pen, made, x, y, step, [low, high]);
  pen.lineWidth = 1;
  made.cases.forEach((line) => {
    pen.globalAlpha = 0.45;
    line.slice(1).forEach((v, k) => { if (k) stroke(pen, [x(k - 1), y(line[k])], [x(k), y(v)], css(end(v < 0 ? -1 : 1))); });
  });
  pen.globalAlpha = 1;
  const fg = getComputedStyle(document.documentElement).getPropertyValue("--fg");
  pen.lineWidth = 3;
  made.means.forEach(([mean, from, to], k) => {
    if (k) stroke(pen, [x(k - 1), y(made.means[k - 1][0])], [x(k), y(mean)], fg);
    pen.lineWidth = 1.5;
    stroke(pen, [x(k), y(from)], [x(k), y(to)], fg);
    pen.lineWidth = 3;
  });
  listenNearest(canvas, made.cases.flatMap((line) => line.slice(1).map((v, k) => ({ x: x(k), y: y(v), id: line[0], words: `${made.models[k]}: ${number(v, 3)} logits` }))));
}

function drawAxes(pen, made, x, y, step, ends) {
  const styles = getComputedStyle(document.documentElement), dim = styles.getPropertyValue("--dim"), right = x(made.models.length - 0.5);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = dim;
  for (const v of new Set([ends[0], 0, ends[1]])) {
    pen.setLineDash(v === 0 ? [5, 4] : []);
    stroke(pen, [LEFT, y(v)], [right, y(v)], v === 0 ? dim : styles.getPropertyValue("--line"));
    pen.textAlign = "right";
    if (v === 0 || Math.abs(y(v) - y(0)) > 12) pen.fillText(v.toFixed(1), LEFT - 6, y(v) + 4);
  }
  pen.setLineDash([]);
  pen.textAlign = "center";
  made.models.forEach((name, k) => {
    pen.fillText(cut(name, Math.floor(step / 7)), x(k), TALL - 26);
    pen.fillText(`${Math.round(100 * made.wrong[k])} %`, x(k), TALL - 8);
  });
}

const cut = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);

function stroke(pen, from, to, colour) {
  pen.strokeStyle = colour;
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

// A canvas of this size in CSS pixels, sharp on every screen.
function sheet(parent, width, height, label) {
  const canvas = make("canvas", parent), ratio = devicePixelRatio || 1, pen = canvas.getContext("2d");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  canvas.style.width = `${width}px`;
  pen.scale(ratio, ratio);
  return { canvas, pen };
}

// Tooltip for the point under the pointer; a click opens its case. Points are in CSS pixels of the unscaled canvas.
function listenNearest(canvas, points) {
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), scale = parseFloat(canvas.style.width) / box.width;
    const far = (p) => Math.hypot(p.x - (event.clientX - box.left) * scale, p.y - (event.clientY - box.top) * scale);
    const best = points.reduce((a, b) => (far(b) < far(a) ? b : a), points[0]);
    return best && far(best) < 14 ? best : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const p = nearest(event);
    if (p) showTip(event.clientX, event.clientY, p.id, p.words); else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const p = nearest(event); if (p) openCase(data.cases.findIndex((c) => c.id === p.id)); });
}
