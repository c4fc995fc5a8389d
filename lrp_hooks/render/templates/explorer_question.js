// The question: target, contrast, rules, and options of graphs.

const FIELDS = { composite: "composite", kind: "kind", node_unit: "node-unit", segments: "segments" };

function theQuestion(show) {
  const form = { prompt: thePrompt(), show };
  const same = state.read && JSON.stringify(state.read.prompt) === JSON.stringify(form.prompt);
  form.position = same ? state.read.asked : -1;
  if (control("target").value) form.target = control("target").value;
  form.contrasts = tokensOf("contrast");
  for (const [name, id] of Object.entries(FIELDS)) form[name] = control(id).value;
  return { ...form, top_p: +control("top-p").value, node_threshold: +control("node-threshold").value, mid: control("mid").checked, detail: control("detail").checked };
}

function fillQuestion(question) {
  fillPrompt(question.prompt);
  control("target").value = question.target ?? "";
  control("contrast").value = question.contrasts.join(" ");
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
      const job = await send("/api/explain", aboutModel(theQuestion(show)));
      try { await follow(job); } finally {
        const made = (await call(`/api/jobs/${job.number}`)).result ?? []; // what was done before it was stopped, too
        state.entries.push(...made);
        if (made.length) openEntry(made.at(-1).number);
      }
    });
  });
  for (const id of ["target", "contrast"]) control(id).addEventListener("input", markSides);
}
