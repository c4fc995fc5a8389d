// Pointing, tracing, paths, moving by keyboard.

const inCanvas = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

function point(event) {
  if (event.buttons) return;
  const [x, y] = inCanvas(event), found = hit(x, y);
  setHover(found);
  canvas.classList.toggle("pointing", found !== null && found.kind === "node");
  if (found) showTip(event.clientX, event.clientY, ...tipWords(found)); else hideTip();
}

function setHover(found) {
  const same = JSON.stringify(found) === JSON.stringify(state.hover);
  state.hover = found;
  if (!same) request("paint");
}
function leave() { hideTip(); setHover(null); }

// Light up what flows into a node and out of it; null, or the same node again, clears.
function trace(node) {
  state.traced = node === state.traced ? null : node;
  state.path = null;
  state.at = state.traced ?? state.at;
  relight();
}

function choosePath(index) {
  state.path = index === state.path ? null : index;
  state.traced = state.at = null;
  relight();
}

function clearAll() {
  state.traced = state.path = state.at = null;
  leave();
  relight();
}

function relight() {
  if (state.traced !== null && !shown.node[state.traced]) state.traced = null;
  lit = state.traced !== null ? flow(state.traced) : state.path !== null ? along(data.paths[state.path]) : null;
  makeRoom();
  showNode(state.traced ?? state.at);
  markPath();
  request("style");
}

// A path may run through columns that the threshold has taken away; they come back while it is lit.
function makeRoom() {
  const missing = [...nodes.column.keys()].some((n) => onPath(n) && Number.isNaN(layout.slot[nodes.column[n]]));
  if (missing || layout.forPath) arrange();
  layout.forPath = missing || (layout.forPath && state.path !== null);
}

function moveTo(node) {
  state.at = node;
  const x = nodeX(node), y = nodeY(node);
  if (!inSight(x, y)) centre(nodes.column[node], nodes.row[node]);
  showNode(node);
  request("paint");
}

// The next shown node in a direction: along its row, or the nearest column of the next row that has one.
function neighbour(node, dx, dy) {
  let best = null, distance = Infinity;
  for (let n = 0; n < nodes.count; n++) {
    if (!visible(n)) continue;
    const across = layout.slot[nodes.column[n]] - layout.slot[nodes.column[node]], up = nodes.row[n] - nodes.row[node];
    if (dx ? up !== 0 || across * dx <= 0 : up * dy <= 0) continue;
    const d = dx ? Math.abs(across) : Math.abs(up) * 1e6 + Math.abs(across);
    if (d < distance) { best = n; distance = d; }
  }
  return best;
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  const here = state.at !== null && visible(state.at) ? state.at : finalNode;
  if (step && event.shiftKey) setView(view.kx, view.tx - 60 * step[0], view.ty + 60 * step[1]);
  else if (step) moveTo(state.at === null ? here : neighbour(here, ...step) ?? here);
  else if (event.key === "Enter" || event.key === " ") trace(here);
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") resetView();
  else return;
  event.preventDefault();
}

function listen() {
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("click", (event) => {
    const target = hit(...inCanvas(event));
    if (target && target.kind === "node") trace(target.node);
    else if (!target && event.detail < 2 && lit) clearAll();
    if (event.pointerType === "touch" && target) showTip(event.clientX, event.clientY, ...tipWords(target));
  });
  canvas.addEventListener("dblclick", (event) => {
    const target = hit(...inCanvas(event));
    if (!target || target.kind !== "node") resetView();
  });
  canvas.addEventListener("wheel", hideTip, { passive: true });
  canvas.addEventListener("keydown", press);
  addEventListener("keydown", (event) => { if (event.key === "Escape") clearAll(); });
  addEventListener("scroll", hideTip, { passive: true });
}

// Search: marks the columns whose text holds the words; Enter goes from one to the next.
function search() {
  const words = state.search.toLowerCase(), all = [];
  if (words) data.labels.forEach((label, column) => { if (label.toLowerCase().replaceAll("␣", " ").includes(words) || label.toLowerCase().includes(words)) all.push(column); });
  found = new Set(all.filter((column) => !Number.isNaN(layout.slot[column])));
  const away = all.length - found.size;
  control("found").textContent = words ? `${found.size} found${away ? `, ${away} not shown` : ""}` : "";
  request("paint");
}
function nextFound() {
  const list = [...found];
  if (!list.length) return;
  const next = list[(list.indexOf(nextFound.last) + 1) % list.length];
  nextFound.last = next;
  centre(next);
}
