// The heatmap page's state, and what its scores are divided by.

const state = { normalize: data.panels[0].normalize, palette: data.palette, range: "own", rows: "each", theme: data.theme ?? "auto",
  hideSpecial: false, firstSpecial: false };

const isSpecial = (panel, i) => panel.special[i] === 1 || (state.firstSpecial && i === 0);

function largest(panel, scores) {
  let most = 0;
  for (let i = 0; i < scores.length; i++) if (!isSpecial(panel, i)) most = Math.max(most, Math.abs(scores[i]));
  return most || 1;
}

function sums(panel) {
  let absolute = 0, signed = 0;
  panel.scores.forEach((s, i) => { if (!isSpecial(panel, i)) { absolute += Math.abs(s); signed += s; } });
  return { absolute: absolute || 1, signed: Math.abs(signed) || 1 };
}

// What raw scores are divided by.
function divisor(panel) {
  if (state.normalize === "none") return 1;
  if (state.normalize === "max") return largest(panel, panel.scores);
  return state.normalize === "sum" ? sums(panel).absolute : sums(panel).signed;
}

// The normalized score that gets the strongest colour.
function reach(panel) {
  const own = (p) => largest(p, p.scores) / divisor(p);
  return state.range === "own" ? own(panel) : Math.max(...data.panels.map(own));
}
