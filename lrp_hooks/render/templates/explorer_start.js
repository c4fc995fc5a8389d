// Controls, first state, and the work that was under way when the page was opened.

function restyle() {
  document.documentElement.dataset.theme = ground();
  control("frame").contentWindow.postMessage({ palette: state.palette, theme: ground() }, "*"); // holds no secret
}

async function begin() {
  const known = await call("/api/state");
  showModel(known.model);
  state.entries = known.entries;
  state.folder = known.folder;
  control("kept").textContent = known.folder ? `kept in ${known.folder}` : "kept until the server stops";
  if (known.notes.length) complain(known.notes.join("\n"));
  openEntry(state.entries.at(-1)?.number ?? null);
  for (const job of known.jobs) await follow(job);
  if (known.jobs.length) {
    const now = await call("/api/state");
    showModel(now.model);
    state.entries = now.entries;
    openEntry(state.entries.at(-1)?.number ?? null);
  }
}

for (const name of Object.keys(data.palettes)) make("option", control("palette"), "", name).value = name;
control("palette").value = state.palette;
control("controls").addEventListener("input", () => {
  for (const id of ["palette", "theme"]) state[id] = control(id).value;
  restyle();
});
control("controls").addEventListener("submit", (event) => event.preventDefault());
control("stop").addEventListener("click", () => { if (state.job !== null) attempt(() => call(`/api/jobs/${state.job}/cancel`, { method: "POST" })); });
darkness.addEventListener("change", restyle);
restyle();
listenPrompt();
listenCandidates();
listenQuestion();
listenResults();
restoreForm();
markKind();
act(begin);
