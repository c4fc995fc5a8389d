// The report's state, and its tables of means.

const state = { palette: data.palette, theme: "auto", model: data.models[0] ?? "", sort: "place", down: false, open: null, graph: data.composites[0] ?? "" };

const isNumber = (text) => /^[+−-]?[0-9.]+%?( \[.*\])?$/.test(text);

function buildTable(parent, table) {
  if (!table.rows.length) return;
  const card = make("section", parent, "card");
  make("h2", card, "", table.title);
  if (table.note) make("p", card, "caption", table.note);
  const made = make("table", make("div", card, "scroll"));
  const head = make("tr", make("thead", made));
  const numeric = table.head.map((_, i) => table.rows.every((row) => row[i] === "" || isNumber(row[i])));
  table.head.forEach((name, i) => { make("th", head, numeric[i] ? "number" : "", name).scope = "col"; });
  const body = make("tbody", made);
  for (const cells of table.rows) {
    const row = make("tr", body);
    cells.forEach((text, i) => make("td", row, numeric[i] ? "number" : "", text));
  }
  return card;
}

function buildOverview() {
  const root = control("overview");
  data.tables.forEach((table, i) => {
    const card = buildTable(root, table);
    if (card && i === 0 && data.verdicts.length) {
      const list = make("ul", card, "verdicts");
      for (const line of data.verdicts) make("li", list, "", line);
    }
  });
  buildTable(root, { title: "Errors", head: ["case", "model", "what"], rows: data.errors, note: "" });
}
