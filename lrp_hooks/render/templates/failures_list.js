// The list of cases: filter, sort, open.

const delta = (known) => { const panel = known.panels.find((p) => p.model === state.model); return panel ? panel.value : known.delta; };
const flipOf = (known, ranking) => { const flip = known.flips.find((f) => f[0] === state.model && f[2] === ranking); return flip ? flip[4] : null; };
const COLUMNS = [
  ["case", "", (c) => c.id], ["found by", "", (c) => c.kind], ["position", "number", (c) => c.position],
  ["target", "word", (c) => c.target], ["contrast", "word", (c) => c.contrast], ["difference", "number", delta],
  ["passes all", "", (c) => (c.passes === null ? "" : c.passes ? "yes" : "no")],
  ...data.composites.map((name) => [`${name} flips at`, "number", (c) => flipOf(c, name)]),
  ...(data.cases.some((c) => c.label.length) ? [["label", "", (c) => c.label[0] ?? ""]] : []),
  ["prompt", "text", (c) => c.prompt.slice(0, 160)],
];

function shown() {
  const words = control("words").value.trim().toLowerCase(), kind = control("kind").value, least = control("least").value;
  const found = data.cases.map((c, i) => [c, i]).filter(([c]) =>
    (!words || [c.id, c.prompt, c.said, c.target, c.contrast].some((text) => text.toLowerCase().includes(words)))
    && (!kind || c.kind === kind) && (least === "" || (delta(c) ?? -Infinity) > Number(least)) && (!control("all").checked || c.passes === true));
  const column = COLUMNS.find(([name]) => name === state.sort);
  if (column) {
    const value = column[2], sign = state.down ? -1 : 1;
    found.sort(([a], [b]) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
    });
  }
  return found;
}

function drawList() {
  const table = control("list"), found = shown();
  table.replaceChildren();
  const head = make("tr", make("thead", table));
  for (const [name, kind] of COLUMNS) {
    const cell = make("th", head, kind === "number" ? "number" : ""), button = make("button", cell, "", name + (state.sort === name ? (state.down ? " ↓" : " ↑") : ""));
    cell.scope = "col";
    cell.setAttribute("aria-sort", state.sort === name ? (state.down ? "descending" : "ascending") : "none");
    button.type = "button";
    button.addEventListener("click", () => { state.down = state.sort === name && !state.down; state.sort = name; drawList(); });
  }
  const body = make("tbody", table);
  for (const [known, index] of found) {
    const row = make("tr", body);
    row.dataset.index = index;
    row.tabIndex = 0;
    for (const [name, kind, value] of COLUMNS) {
      const text = value(known);
      make("td", row, kind, text === null ? "–" : name === "difference" ? number(text, 3) : text);
    }
    row.addEventListener("click", () => openCase(index));
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter") openCase(index);
      const next = { ArrowDown: row.nextSibling, ArrowUp: row.previousSibling }[event.key];
      if (next) { next.focus(); openCase(+next.dataset.index); event.preventDefault(); }
    });
  }
  control("count").textContent = `${found.length} of ${data.cases.length}`;
  markOpen();
}

function markOpen() {
  for (const row of document.querySelectorAll("#list tbody tr")) row.classList.toggle("open", +row.dataset.index === state.open);
}
