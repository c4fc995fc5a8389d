// The question: target, contrast, rules, and options of graphs.

const FIELDS = { composite: "composite", kind: "kind", node_unit: "node-unit", segments: "segments" };

function theQuestion(show) {
  const form = { prompt: thePrompt(), show };
  const same = state.read && JSON.stringify(state.read.prompt) === JSON.stringify(form.prompt);
  form.position = same ? state.read.asked : -1;
  const target = control("target").value, contrast = control("contrast").value;
  if (target) form.target = target;
  if (contrast) form.contrasts = [contrast];
  for (const [name, id] of Object.entries(FIELDS)) form[name] = control(id).value;
  return { ...form, top_p: +control("top-p").value, node_threshold: +control("node-threshold").value, mid: control("mid").checked, detail: control("detail").checked };
}

function fillQuestion(question) {
  fillPrompt(question.prompt);
  control("target").value = question.target ?? "";
  control("contrast").value = question.contrasts[0] ?? "";
  for (const [name, id] of Object.entries(FIELDS)) control(id).value = question[name];
  control("top-p").value = question.top_p;
  control("node-threshold").value = question.node_threshold;
  control("mid").checked = question.mid;
  control("detail").checked = question.detail;
  markSides();
}

function listenQuestion() {
  control("question-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const show = event.submitter?.value || "heatmap";
    act(async () => {
      const made = await follow(await send("/api/explain", theQuestion(show)));
      if (!made) return;
      state.entries.push(...made);
      openEntry(made[0].number);
    });
  });
  for (const id of ["target", "contrast"]) control(id).addEventListener("input", markSides);
}
