// What was explained, opened or compared: the list, one of them in a frame, comparisons and files.

const entryOf = (number) => state.entries.find((entry) => entry.number === number);

// What the question was about: the end of what stood before the explained place.
function about(entry) {
  const position = entry.question?.position ?? -1;
  return `${entry.text}${position === -1 ? "" : ` · at token ${position}`}`;
}

function drawResults() {
  const table = control("results"), focused = document.activeElement?.closest?.("#results tr")?.dataset.number;
  table.replaceChildren();
  control("no-results").hidden = state.entries.length > 0;
  if (!state.entries.length) { drawChoice(); return; }
  const several = new Set(state.entries.map((entry) => entry.model)).size > 1;
  const head = make("tr", make("thead", table));
  for (const name of ["", "", "kind", "explained", "value", "rules", "after", ...(several ? ["model"] : []), "size", "s"]) make("th", head, "", name);
  const body = make("tbody", table);
  for (const entry of [...state.entries].reverse()) {
    const row = make("tr", body, entry.number === state.open ? "open" : "");
    row.dataset.number = entry.number;
    const box = make("input", make("td", row));
    Object.assign(box, { type: "checkbox", checked: state.chosen.has(entry.number) });
    box.setAttribute("aria-label", `Compare result ${entry.number}`);
    make("td", row, "number", String(entry.number));
    make("td", row, "", entry.origin === "explained" ? entry.kind : `${entry.kind}, ${entry.origin}`);
    const name = make("button", make("td", row, "word"), "", entry.target);
    Object.assign(name, { type: "button", title: entry.target });
    make("td", row, "number", entry.value === null ? "" : number(entry.value));
    make("td", row, "", entry.composite);
    make("td", row, "word", about(entry)).title = about(entry);
    if (several) make("td", row, "", entry.model);
    make("td", row, "", entry.size);
    make("td", row, "number", entry.seconds === null ? "" : entry.seconds.toFixed(1));
    if (focused === row.dataset.number) name.focus();
  }
  drawChoice();
}

const MOST_COMPARED = 8;
function drawChoice() {
  const chosen = [...state.chosen].filter(entryOf), kinds = new Set(chosen.map((n) => entryOf(n).kind)), button = control("compare");
  const graphs = kinds.has("graph");
  button.disabled = chosen.length < 2 || chosen.length > MOST_COMPARED || kinds.size > 1 || (graphs && chosen.length !== 2);
  button.textContent = graphs && chosen.length === 2 && kinds.size === 1 ? `subtract: ${chosen[0]} − ${chosen[1]}` : "compare";
  button.title = `Tick 2 to ${MOST_COMPARED} heatmaps to see them side by side, or two graphs to subtract the second from the first`;
}

function openEntry(number) {
  state.open = number;
  drawResults();
  const entry = entryOf(number);
  control("viewer").hidden = !entry;
  if (!entry) return;
  control("viewer-title").textContent = `${number}: ${entry.target}`;
  control("again").hidden = !entry.question;
  const choice = control("download");
  choice.replaceChildren();
  make("option", choice, "", "as …").value = "";
  for (const format of entry.formats) make("option", choice, "", format).value = format;
  attempt(() => fillFrame(number));
}

// Scroll to a new result when its head is out of sight.
function showViewer() {
  const { top } = control("viewer").getBoundingClientRect();
  if (top < 0 || top > 0.75 * innerHeight) control("viewer").scrollIntoView({ block: "start" });
}

// The result's own page, as text: the frame is a site of its own, without the key, bound by this page's policy as well.
async function fillFrame(number) {
  const frame = control("frame"), text = await call(`/results/${number}?palette=${encodeURIComponent(state.palette)}&theme=${ground()}`);
  if (number !== state.open) return;
  frame.style.height = "";
  frame.dataset.number = number;
  frame.srcdoc = text;
}

async function openFile(file) {
  const path = `/api/open?name=${encodeURIComponent(file.name)}`;
  const entry = await call(path, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });
  state.entries.push(entry);
  openEntry(entry.number);
}

async function openFiles(files) {
  for (const file of files) await attempt(() => openFile(file));
}

async function save(number, format) {
  const answer = await ask(`/results/${number}/download?format=${encodeURIComponent(format)}&palette=${encodeURIComponent(state.palette)}`);
  if (!answer.ok) throw new Error((await answer.json()).error);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = /filename="(.*)"/.exec(answer.headers.get("content-disposition"))[1];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function listenResults() {
  addEventListener("message", (event) => {
    const frame = control("frame");
    if (event.source === frame.contentWindow && event.data?.height > 0) frame.style.height = `${Math.min(event.data.height + 4, 30000)}px`;
  });
  control("results").addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    const number = +row.dataset.number;
    if (event.target.type === "checkbox") { if (event.target.checked) state.chosen.add(number); else state.chosen.delete(number); drawChoice(); } else openEntry(number);
  });
  control("compare").addEventListener("click", () => attempt(async () => {
    const chosen = [...state.chosen].filter(entryOf), graphs = chosen.some((n) => entryOf(n).kind === "graph");
    const entry = await send("/api/compare", { results: graphs ? chosen : chosen.sort((a, b) => a - b) });
    state.chosen.clear();
    state.entries.push(entry);
    openEntry(entry.number);
  }));
  control("open-button").addEventListener("click", () => control("open-file").click());
  control("open-file").addEventListener("change", async () => {
    const files = [...control("open-file").files];
    control("open-file").value = ""; // the same file can be chosen again
    await openFiles(files);
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); openFiles([...event.dataTransfer.files]); });
  control("again").addEventListener("click", () => {
    const { question } = entryOf(state.open);
    fillQuestion(question);
    readPrompt(question.position);
  });
  control("remove").addEventListener("click", () => attempt(async () => {
    const button = control("remove");
    if (state.folder && button.textContent === "remove") { // its files go too
      button.textContent = "remove the file?";
      setTimeout(() => { button.textContent = "remove"; }, 4000);
      return;
    }
    button.textContent = "remove";
    await call(`/api/results/${state.open}`, { method: "DELETE" });
    const place = state.entries.findIndex((entry) => entry.number === state.open);
    state.entries.splice(place, 1);
    state.chosen.delete(state.open);
    openEntry((state.entries[place] ?? state.entries.at(-1))?.number ?? null);
  }));
  control("download").addEventListener("change", () => attempt(async () => {
    const format = control("download").value;
    control("download").value = "";
    if (format) await save(state.open, format);
  }));
}
