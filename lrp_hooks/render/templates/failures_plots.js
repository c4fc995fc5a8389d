// Scatter of two models' differences with y = x, and bars of the parts of the prompt.

const SIDE = 380, EDGE = 46;

function buildPlots() {
  const root = control("plots");
  root.replaceChildren();
  for (const each of data.comparisons) scatter(root, each);
  bars(root);
}

function scatter(root, each) {
  const card = make("section", root, "card"), corrected = each.points.filter((p) => p[2] < 0).length;
  make("h2", card, "", `${each.other} against ${each.first}`);
  make("p", card, "caption", `logit(target) − logit(contrast); dashed: y = x. ${corrected} of ${each.points.length} corrected (below 0).`);
  const canvas = make("canvas", card), ratio = devicePixelRatio || 1;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${each.points.length} cases; the table of cases has the same numbers`);
  canvas.width = canvas.height = SIDE * ratio;
  canvas.style.width = `${SIDE}px`;
  const pen = canvas.getContext("2d"), values = each.points.flatMap((p) => [p[1], p[2]]);
  const low = Math.min(0, ...values), high = Math.max(0, ...values), room = 0.06 * (high - low || 1);
  const x = (v) => EDGE + ((v - low + room) / (high - low + 2 * room || 1)) * (SIDE - EDGE - 8);
  const y = (v) => SIDE - x(v);
  pen.scale(ratio, ratio);
  const styles = getComputedStyle(document.documentElement), line = styles.getPropertyValue("--line"), dim = styles.getPropertyValue("--dim");
  pen.strokeStyle = line;
  pen.strokeRect(EDGE, 8, SIDE - EDGE - 8, SIDE - EDGE - 8);
  const draw = (x0, y0, x1, y1, dash) => { pen.setLineDash(dash); pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke(); };
  draw(x(0), 8, x(0), SIDE - EDGE, []);
  draw(EDGE, y(0), SIDE - 8, y(0), []);
  pen.strokeStyle = dim;
  draw(x(low), y(low), x(high), y(high), [5, 4]);
  pen.setLineDash([]);
  pen.fillStyle = dim;
  pen.font = "12px system-ui, sans-serif";
  for (const v of [low, 0, high]) {
    pen.textAlign = "center";
    pen.fillText(v.toFixed(1), x(v), SIDE - EDGE + 16);
    pen.textAlign = "right";
    pen.fillText(v.toFixed(1), EDGE - 5, y(v) + 4);
  }
  pen.textAlign = "center";
  pen.fillText(each.first, (EDGE + SIDE) / 2, SIDE - 8);
  for (const p of each.points) {
    pen.fillStyle = css(end(p[2] < 0 ? -1 : 1));
    pen.beginPath();
    pen.arc(x(p[1]), y(p[2]), 4, 0, 7);
    pen.fill();
  }
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), scale = SIDE / box.width;
    const far = (p) => Math.hypot(x(p[1]) - (event.clientX - box.left) * scale, y(p[2]) - (event.clientY - box.top) * scale);
    const best = each.points.reduce((a, b) => (far(b) < far(a) ? b : a), each.points[0]);
    return best && far(best) < 14 ? best : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const p = nearest(event);
    if (p) showTip(event.clientX, event.clientY, p[0], `${each.first}: ${number(p[1], 3)}\n${each.other}: ${number(p[2], 3)}`); else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const p = nearest(event); if (p) openCase(data.cases.findIndex((c) => c.id === p[0])); });
}

function bars(root) {
  if (!data.shares.length) return;
  const card = make("section", root, "card bars");
  make("h2", card, "", "Share of sum |R| by part of the prompt");
  const table = make("table", card);
  for (const [model, composite, name, absolute, signed] of data.shares) {
    const row = make("tr", table);
    make("td", row, "", data.models.length > 1 ? `${model} · ${composite}` : composite);
    make("td", row, "", name);
    const bar = make("i", make("td", row, "bar"));
    bar.style.width = `${100 * absolute}%`;
    bar.style.background = css(colour(Math.sign(signed) * Math.min(1, 0.35 + Math.abs(signed))));
    make("td", row, "number", `${(100 * absolute).toFixed(1)} %`);
  }
  make("p", card, "caption", "Colour: the side that the part speaks for on the whole.");
}
