"use strict";
// Scores to colours. Strings from the prompt are only ever written through textContent and canvas text, in every file.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { normalize: data.panels[0].normalize, palette: data.palette, range: "own", rows: "each", theme: "auto",
  hideSpecial: false, firstSpecial: false };
const darkness = matchMedia("(prefers-color-scheme: dark)");

const ground = () => (state.theme === "auto" ? (darkness.matches ? "dark" : "light") : state.theme);
const isSpecial = (panel, i) => panel.special[i] === 1 || (state.firstSpecial && i === 0);
const gray = () => data.grays[ground()];
const css = (rgb) => `rgb(${rgb.join(",")})`;

function end(share) {
  return data.palettes[state.palette][ground()][share >= 0 ? 0 : 1];
}

function colour(share) {
  const neutral = data.grounds[ground()], vivid = end(share);
  const weight = Math.pow(Math.min(Math.abs(share), 1), data.gamma);
  return vivid.map((v, k) => Math.round(neutral[k] + (v - neutral[k]) * weight));
}

// Black or white, whichever reads better: WCAG relative luminance.
function ink(rgb) {
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 255 / 12.92 : Math.pow((c / 255 + 0.055) / 1.055, 2.4)));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

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

const number = (value, digits = 4) => (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(digits).replace("e-", "e−");
