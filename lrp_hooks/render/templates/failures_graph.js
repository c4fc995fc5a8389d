// The attribution graph of a case: the graph page in a sandboxed frame, made when it comes into sight.

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { sight.unobserve(entry.target); fillGraph(entry.target); }
}, { rootMargin: "200px" });
addEventListener("message", (event) => {
  for (const frame of document.querySelectorAll("#case iframe")) {
    if (frame.contentWindow === event.source && event.data?.height > 0) frame.style.height = `${Math.min(event.data.height, 3000)}px`;
  }
});

function buildGraph(root, panels) {
  const known = panels.filter((panel) => panel.graph);
  if (!known.length) return;
  const shown = known.find((panel) => panel.composite === state.graph) ?? known[0];
  make("h3", root, "", "Attribution graph: from the input tokens (bottom) to the answer (top); ctrl and wheel zooms, a click traces a node").style.marginTop = "1rem";
  if (known.length > 1) {
    const label = make("label", make("form", root), "", "Rules "), choice = make("select", label);
    choice.id = "graph-rules";
    for (const panel of known) make("option", choice, "", panel.composite).value = panel.composite;
    choice.value = shown.composite;
    choice.addEventListener("input", () => { state.graph = choice.value; openCase(state.open); });
  }
  const place = make("div", root, "graph");
  if (shown.graph.note) { make("p", place, "note", shown.graph.note); return; }
  place.panel = shown;
  sight.observe(place);
}

// Strings of the graph are inside its JSON, where Python has escaped everything that could end the script element.
function fillGraph(place) {
  const frame = document.createElement("iframe"), json = place.panel.graph.data;
  const display = JSON.stringify({ palette: state.palette, theme: state.theme, embedded: true });
  frame.title = `Attribution graph by ${place.panel.composite}`;
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  frame.srcdoc = data.frame[0] + `${json.slice(0, -1)},${display.slice(1)}` + data.frame[1];
  place.replaceChildren(frame);
}
