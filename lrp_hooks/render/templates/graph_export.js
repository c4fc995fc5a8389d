// PNG and SVG of what is seen, with title, caption and legend.

const HEAD = 26, FOOT = 30, LINE = 16;

function drawSheet(pen, width, height) {
  const lines = data.caption;
  pen.fillStyle = inks.card;
  pen.globalAlpha = 1;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = inks.fg;
  pen.textAlign = "left";
  pen.textBaseline = "alphabetic";
  pen.font = `650 15px ${SANS}`;
  pen.fillText(short(data.title, 120), 12, HEAD - 4);
  pen.font = `11px ${SANS}`;
  pen.fillStyle = inks.dim;
  lines.forEach((words, k) => pen.fillText(short(words, Math.floor(width / 5.6)), 12, HEAD + LINE * (k + 1) - 4));
  pen.save();
  pen.translate(0, HEAD + LINE * lines.length);
  drawPlot(pen);
  pen.restore();
  drawKey(pen, height - 12);
}

function drawPlot(pen) {
  drawGround(pen);
  pen.save();
  clipPlot(pen);
  for (const item of queue().reverse()) drawItem(pen, item);
  pen.restore();
}

function drawKey(pen, y) {
  const names = data.palettes[state.palette].names;
  let x = 12;
  pen.font = `11px ${SANS}`;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.globalAlpha = 1;
  data.supports.forEach((words, k) => {
    pen.fillStyle = inks.side[k];
    pen.fillRect(x, y - 5, 16, 10);
    pen.fillStyle = inks.dim;
    const text = short(`${names[k]}: ${words}`, 60);
    pen.fillText(text, x + 22, y);
    x += 40 + pen.measureText(text).width;
  });
  pen.fillText(shownWords(), x, y);
}

const sheetSize = () => [plot.full[0], HEAD + LINE * data.caption.length + plot.full[1] + FOOT];

function svgText() {
  const [width, height] = sheetSize(), pen = new SvgPen(fine(width), fine(height));
  drawSheet(pen, width, height);
  return pen.text();
}

function pngBlob() {
  const sheet = document.createElement("canvas"), [width, height] = sheetSize(), ratio = Math.max(2, pixelRatio());
  Object.assign(sheet, { width: width * ratio, height: height * ratio });
  const pen = sheet.getContext("2d");
  pen.scale(ratio, ratio);
  drawSheet(pen, width, height);
  return new Promise((resolve) => sheet.toBlob(resolve, "image/png"));
}

function download(blob, suffix) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = `${data.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-|-$/g, "") || "graph"}.${suffix}`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
}
