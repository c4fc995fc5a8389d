// One case: question, heatmaps side by side, parts of the prompt, graph, validation.

function openCase(index) {
  const root = control("case"), known = data.cases[index];
  if (!known) return;
  state.open = index;
  root.hidden = false;
  root.replaceChildren();
  make("h2", root, "", `${known.id}: why “${known.target}” and not “${known.contrast}”?`);
  const facts = [known.kind && `found by ${known.kind}`, known.position === null ? "" : `token ${known.position} of the answer`,
    known.rank ? `contrast is choice ${known.rank}` : "", known.passes === true ? "repaired answer passes everything" : known.passes === false ? "repaired answer follows one instruction more" : ""];
  make("p", root, "caption", facts.filter(Boolean).join(" · "));
  const panels = known.panels.filter((panel) => panel.model === state.model);
  if (!panels.length) make("p", root, "note", `no attribution with ${state.model}`);
  else {
    const legend = make("div", root, "legend");
    drawRamp(legend, [`supports “${known.target}”`, `supports “${known.contrast}”`], ["−largest |R|", "0", "largest |R|"]);
    const grid = make("div", root, "panels");
    for (const panel of panels) buildPanel(grid, panel);
  }
  buildPatterns(root, known, panels[0]);
  buildGraph(root, panels);
  buildFlips(root, known);
  markOpen();
}

function buildPanel(grid, panel) {
  const box = make("div", grid);
  make("h3", box, "", `${panel.composite}: ${number(panel.value, 4)} logits${panel.ledger === null ? "" : `, ledger ${panel.ledger.toExponential(0)}`}`);
  const flow = make("div", box, "tokens"), runs = new Map(panel.runs);
  let most = 0, sum = 0, parent = flow, stop = -1;
  panel.scores.forEach((s, i) => { sum += Math.abs(s); if (!panel.special[i]) most = Math.max(most, Math.abs(s)); });
  panel.tokens.forEach((text, i) => {
    if (i === stop) parent = flow;
    if (runs.has(i)) { parent = make("bdi", flow); stop = runs.get(i); }
    const node = make("span", parent, panel.special[i] ? "special" : "", text), share = panel.scores[i] / (most || 1);
    const rgb = panel.special[i] ? gray() : colour(share);
    if (panel.special[i] || Math.abs(share) > 0.01) { node.style.background = css(rgb); node.style.color = ink(rgb); }
    node.addEventListener("pointerenter", (event) => showTip(event.clientX, event.clientY, panel.labels[i],
      `${number(panel.scores[i])} logits\n${(100 * Math.abs(panel.scores[i]) / (sum || 1)).toFixed(1)} % of sum |R|\ntoken ${i}${panel.special[i] ? ", special" : ""}`));
    node.addEventListener("pointerleave", hideTip);
  });
  flow.tabIndex = 0;
  flow.setAttribute("aria-label", `Tokens by ${panel.composite}`);
  const parts = make("div", box, "parts");
  for (const [name, tokens, absolute, signed] of panel.shares) {
    const part = make("i", parts, "", `${name} ${(100 * absolute).toFixed(0)} %`), rgb = colour(signed / (absolute || 1) * 0.8);
    Object.assign(part.style, { width: `${100 * absolute}%`, background: css(rgb), color: ink(rgb) });
    part.addEventListener("pointermove", (event) => showTip(event.clientX, event.clientY, name,
      `${tokens} tokens\n${(100 * absolute).toFixed(1)} % of sum |R|\n${number(100 * signed, 3)} % for the target`));
    part.addEventListener("pointerleave", hideTip);
  }
}

// What the first composite suggests, and what a person has said.
function buildPatterns(root, known, panel) {
  if (!known.label.length && !(panel && panel.patterns.length)) return;
  const list = make("ul", root, "verdicts");
  for (const [pattern, evidence] of panel ? panel.patterns : []) make("li", list, "", `suggested: ${pattern} (${evidence})`);
  if (known.label.length) make("li", list, "", `label: ${known.label.filter(Boolean).join(", ")}`);
}

function buildFlips(root, known) {
  const flips = known.flips.filter((flip) => flip[0] === state.model);
  if (!flips.length) return;
  make("h3", root, "", `Words masked until the prediction changes, at most ${known.most}`).style.marginTop = "1rem";
  const table = make("table", make("div", root, "scroll")), head = make("tr", make("thead", table));
  for (const name of ["masked by", "ranking", "until another token leads", "until the contrast leads the target", "then passes", "until the answer passes", "masked words"]) make("th", head, "", name).scope = "col";
  const body = make("tbody", table), missing = `more than ${known.most}`;
  const [, goesOn, reason] = known.checks.find((check) => check[0] === state.model);
  const yes = (changed, passes) => (changed === null || passes === null ? "" : passes ? "yes" : "no");
  for (const [, replacement, ranking, draw, changed, overtaken, passes, passed, words] of flips) {
    const row = make("tr", body);
    for (const text of [replacement, ranking === "random" ? `random ${draw + 1}` : ranking, changed ?? missing, overtaken ?? missing, yes(changed, passes), passed ?? (goesOn && passes !== null ? missing : "")]) make("td", row, "", text);
    make("td", row, "word masked", words.join(" · "));
  }
  if (reason) make("p", root, "note", `The answers were not judged: ${reason}`);
}
