// Scatter of two models' differences with y = x, and bars of the parts of the prompt, also by what becomes of the error.

const SIDE = 380, EDGE = 46;

function buildPlots() {
  const root = control("plots");
  root.replaceChildren();
  if (data.incomparable) make("p", make("section", root, "card"), "note", `Models are not compared: ${data.incomparable}`);
  for (const each of data.comparisons) scatter(root, each);
  buildTrajectory(root);
  if (data.shares.length) bars(root, "Share of sum |R| by part of the prompt", [["", data.shares]]);
  for (const each of data.comparisons) outcomes(root, each);
}

function scatter(root, each) {
  const card = make("section", root, "card"), corrected = each.points.filter((p) => p[3] === "corrected").length;
  make("h2", card, "", `${each.other} against ${each.first}`);
  make("p", card, "caption", `logit(target) − logit(contrast); dashed: y = x. ${corrected} of ${each.points.length} corrected (below 0).`);
  const { canvas, pen } = sheet(card, SIDE, SIDE, `${each.points.length} cases; the table of cases has the same numbers`);
  const values = each.points.flatMap((p) => [p[1], p[2]]);
  const low = Math.min(0, ...values), high = Math.max(0, ...values), room = 0.06 * (high - low || 1);
  const x = (v) => EDGE + ((v - low + room) / (high - low + 2 * room || 1)) * (SIDE - EDGE - 8);
  const y = (v) => SIDE - x(v);
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
  listenNearest(canvas, each.points.map((p) => ({ x: x(p[1]), y: y(p[2]), id: p[0], words: `${each.first}: ${number(p[1], 3)}\n${each.other}: ${number(p[2], 3)}\n${p[3]}` })));
}

// Groups of rows [model, composite, part, share of sum |R|, signed share], each under its heading.
function bars(root, title, groups) {
  const card = make("section", root, "card bars");
  make("h2", card, "", title);
  const table = make("table", make("div", card, "scroll")), models = new Set(groups.flatMap(([, rows]) => rows.map((row) => row[0])));
  for (const [heading, rows] of groups) {
    if (heading) { const head = make("th", make("tr", table), "", heading); head.colSpan = 4; head.scope = "rowgroup"; }
    for (const [model, composite, name, absolute, signed] of rows) {
      const row = make("tr", table);
      make("td", row, "", models.size > 1 ? `${model} · ${composite}` : composite);
      make("td", row, "", name);
      const bar = make("i", make("td", row, "bar"));
      bar.style.width = `${100 * absolute}%`;
      bar.style.background = css(colour(Math.sign(signed) * Math.min(1, 0.35 + Math.abs(signed))));
      make("td", row, "number", `${(100 * absolute).toFixed(1)} %`);
    }
  }
  make("p", card, "caption", "Colour: the side that the part speaks for on the whole.");
}

// By the first rules: corrected cases beside those that were not.
function outcomes(root, each) {
  if (each.outcomes.length < 2) return;
  const groups = each.outcomes.map(([outcome, cases, rows]) => [`${outcome} (${cases})`, rows]);
  bars(root, `By what ${each.other} makes of the errors of ${each.first}`, groups);
}
