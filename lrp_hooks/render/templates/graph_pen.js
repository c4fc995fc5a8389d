// The part of a canvas context that the drawing code uses, writing SVG elements instead: one drawing code for both.

const SVG = "http://www.w3.org/2000/svg";

class SvgPen {
  constructor(width, height) {
    this.root = document.createElementNS(SVG, "svg");
    this.set(this.root, { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` });
    this.parent = this.root;
    this.stack = [];
    Object.assign(this, { lineWidth: 1, strokeStyle: "#000", fillStyle: "#000", globalAlpha: 1, font: "", textAlign: "left", textBaseline: "alphabetic", dash: [] });
  }
  set(node, values) { for (const [name, value] of Object.entries(values)) node.setAttribute(name, value); return node; }
  add(tag, values) { const node = document.createElementNS(SVG, tag); this.parent.append(this.set(node, values)); return node; }
  beginPath() { this.route = d3.path(); }
  moveTo(x, y) { this.route.moveTo(fine(x), fine(y)); }
  lineTo(x, y) { this.route.lineTo(fine(x), fine(y)); }
  bezierCurveTo(...numbers) { this.route.bezierCurveTo(...numbers.map(fine)); }
  arc(x, y, r, from, to) { this.route.arc(fine(x), fine(y), fine(r), from, to); }
  rect(x, y, w, h) { this.route.rect(fine(x), fine(y), fine(w), fine(h)); }
  setLineDash(dash) { this.dash = dash; }
  stroke() {
    const node = this.add("path", { d: this.route, fill: "none", stroke: this.strokeStyle, "stroke-width": fine(this.lineWidth) });
    if (this.globalAlpha < 1) node.setAttribute("stroke-opacity", fine(this.globalAlpha));
    if (this.dash.length) node.setAttribute("stroke-dasharray", this.dash.join(" "));
    return this.note(node);
  }
  fill() {
    const node = this.add("path", { d: this.route, fill: this.fillStyle });
    if (this.globalAlpha < 1) node.setAttribute("fill-opacity", fine(this.globalAlpha));
    return this.note(node);
  }
  fillRect(x, y, w, h) { this.beginPath(); this.rect(x, y, w, h); this.fill(); }
  // Words that a viewer shows while the pointer rests on the next shape.
  title(words) { this.words = words; }
  note(node) {
    if (this.words) node.appendChild(document.createElementNS(SVG, "title")).textContent = this.words;
    this.words = "";
    return node;
  }
  fillText(text, x, y) {
    const [, weight, size, family] = this.font.match(/^(?:(\d+) )?([\d.]+)px (.*)$/);
    const anchor = { left: "start", right: "end", center: "middle" }[this.textAlign];
    const node = this.add("text", { x: fine(x), y: fine(y), "font-size": size, "font-family": family.replaceAll('"', "'"), "text-anchor": anchor, fill: this.fillStyle });
    if (weight) node.setAttribute("font-weight", weight);
    if (this.textBaseline === "middle") node.setAttribute("dy", "0.35em");
    if (this.globalAlpha < 1) node.setAttribute("fill-opacity", fine(this.globalAlpha));
    node.textContent = text;
    this.note(node);
  }
  measureText(text) { const c = measuring; c.font = this.font; return c.measureText(text); }
  save() { this.stack.push(this.parent); }
  restore() { this.parent = this.stack.pop(); }
  group(values) { this.parent = this.add("g", values); }
  translate(x, y) { this.group({ transform: `translate(${fine(x)} ${fine(y)})` }); }
  rotate(angle) { this.group({ transform: `rotate(${fine((angle * 180) / Math.PI)})` }); }
  clip() {
    this.set(this.add("clipPath", { id: "plot" }).appendChild(document.createElementNS(SVG, "path")), { d: this.route });
    this.group({ "clip-path": "url(#plot)" });
  }
  text() { return new XMLSerializer().serializeToString(this.root); }
}
const measuring = document.createElement("canvas").getContext("2d");
const fine = (value) => Math.round(value * 100) / 100;
