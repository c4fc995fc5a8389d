// The question: target, contrast, rules, and options of graphs. It is kept with the tab.

const FIELDS = { composite: "composite", kind: "kind", node_unit: "node-unit", segments: "segments" };

function theQuestion(show) {
  const form = { prompt: thePrompt(), show };
  form.position = state.read && !isStale() ? state.read.asked : -1;
  if (control("target").value && !control("target").disabled) form.target = control("target").value;
  form.contrasts = control("contrast").disabled ? [] : tokensOf("contrast");
  for (const [name, id] of Object.entries(FIELDS)) form[name] = control(id).value;
  if (show === "heatmap") return form; // the rest is about graphs
  return { ...form, top_p: +control("top-p").value, node_threshold: +control("node-threshold").value, mid: control("mid").checked, detail: control("detail").checked };
}

function fillQuestion(question) {
  fillPrompt(question.prompt);
  control("target").value = question.target ?? "";
  control("contrast").value = (question.contrasts ?? []).join(" ");
  for (const [name, id] of Object.entries(FIELDS)) if (question[name] !== undefined) control(id).value = question[name];
  if (question.show !== "heatmap") {
    control("top-p").value = question.top_p;
    control("node-threshold").value = question.node_threshold;
    control("mid").checked = question.mid;
    control("detail").checked = question.detail;
  }
  markSides();
  markKind();
}

// Only a difference has a contrast, and the largest logit is of no chosen token.
function markKind() {
  control("contrast").disabled = control("kind").value !== "logit-diff";
  control("target").disabled = control("kind").value === "max-logit";
}

function keepForm() {
  try { sessionStorage.setItem("lrp_hooks_form", JSON.stringify(theQuestion("graph"))); } catch { /* too long to be kept */ }
}
function restoreForm() {
  try { fillQuestion(JSON.parse(sessionStorage.getItem("lrp_hooks_form"))); } catch { /* there is none */ }
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
        if (made.length) { openEntry(made.at(-1).number); showViewer(); }
      }
    });
  });
  control("question-form").addEventListener("invalid", () => { control("graph-options").open = true; }, true);
  control("kind").addEventListener("input", markKind);
  for (const id of ["target", "contrast"]) control(id).addEventListener("input", markSides);
  control("ask").addEventListener("input", keepForm);
  control("ask").addEventListener("click", () => setTimeout(keepForm));
}
