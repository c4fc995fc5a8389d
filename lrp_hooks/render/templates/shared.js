"use strict";
// What every page needs: its data, colours, elements, the tooltip. Strings from the prompt are only ever written through
// textContent and canvas text, in every file. Each page declares `state` with its palette and theme.

const data = JSON.parse(document.getElementById("data").textContent);
const darkness = matchMedia("(prefers-color-scheme: dark)");

const ground = () => (state.theme === "auto" ? (darkness.matches ? "dark" : "light") : state.theme);
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

const number = (value, digits = 4) => (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(digits).replace("e-", "e−");

const make = (tag, parent, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const control = (id) => document.getElementById(id);

const tip = control("tip");
function showTip(x, y, head, text) {
  tip.firstChild.textContent = head;
  tip.lastChild.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 6))}px`;
  tip.style.top = `${Math.max(4, y + 20 + box.height > innerHeight ? y - box.height - 10 : y + 20)}px`;
}
const hideTip = () => { tip.hidden = true; };

// Colour ramp with the words of both sides and three ticks below.
function drawRamp(legend, supports, ticks) {
  const ramp = make("div", legend, "ramp"), [pos, neg] = data.palettes[state.palette].names;
  make("span", ramp, "", `${neg}: ${supports[1]}`);
  const bar = make("canvas", ramp);
  make("span", ramp, "", `${pos}: ${supports[0]}`);
  Object.assign(bar, { width: 101, height: 1 });
  bar.setAttribute("aria-hidden", "true");
  const context = bar.getContext("2d");
  for (let x = 0; x <= 100; x++) { context.fillStyle = css(colour(x / 50 - 1)); context.fillRect(x, 0, 1, 1); }
  const words = make("div", ramp, "ticks");
  for (const text of ticks) make("span", words, "", text);
}
