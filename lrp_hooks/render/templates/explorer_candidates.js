// The prompt's tokens, what could come after each, and what the model would say from there.

const LISTED = 3000; // tokens that are shown one by one

function readPrompt(position = -1) {
  act(async () => {
    const prompt = thePrompt(), extra = control("extra").value ? [control("extra").value] : [];
    const read = await follow(await send("/api/read", aboutModel({ prompt, position, extra, composite: control("composite").value })));
    if (!read) return;
    const same = state.read && JSON.stringify(state.read.prompt) === JSON.stringify(prompt);
    const end = read.position === read.tokens.length - 1;
    state.read = { ...read, prompt, asked: end ? -1 : read.position };
    if (!same) control("written").hidden = true;
    drawTokens();
    drawCandidates();
    control("candidates-card").hidden = false;
  });
}

function drawTokens() {
  const { tokens, position } = state.read, box = control("tokens"), first = Math.max(0, tokens.length - LISTED);
  box.replaceChildren();
  if (first) make("span", box, "note", `… ${first.toLocaleString("en")} tokens before …`);
  tokens.slice(first).forEach((token, k) => {
    const node = make("span", box, token.special ? "special" : "", token.text.replaceAll("↵", "↵\n"));
    node.dataset.i = first + k;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(first + k === position));
  });
  const chosen = box.querySelector('[aria-selected="true"]');
  if (chosen) box.scrollTop = Math.max(0, chosen.offsetTop - box.offsetTop - box.clientHeight + 40);
}

function drawCandidates() {
  const { tokens, position, candidates } = state.read, table = control("candidates");
  control("candidates-words").textContent = `${tokens.length.toLocaleString("en")} tokens. After token ${position}, “${tokens[position].label}”:`;
  table.replaceChildren();
  const head = make("tr", make("thead", table));
  for (const name of ["", "token", "logit", "p", ""]) make("th", head, "", name);
  const body = make("tbody", table);
  for (const row of candidates) {
    const line = make("tr", body);
    make("td", line, "", row.rank.toLocaleString("en"));
    make("td", line, "word", row.label).title = `id ${row.id}`;
    make("td", line, "", row.logit.toFixed(3));
    make("td", line, "", row.probability >= 1e-4 ? `${(100 * row.probability).toFixed(2)} %` : row.probability.toExponential(1));
    const actions = make("td", line);
    for (const [id, label] of [["target", "why"], ["contrast", "not"]]) {
      const button = make("button", actions, "", label);
      button.title = id === "target" ? "the target: explain this token" : "the contrast: prefer it against this token";
      button.dataset.side = id;
      button.dataset.token = `#${row.id}`;
      button.addEventListener("click", () => { choose(id, button.dataset.token); markSides(); });
    }
    const go = make("button", actions, "", "write");
    go.title = "let the model write on from this token";
    go.addEventListener("click", () => writeFrom(row));
  }
  markSides();
}

// Several ids are several contrasts; anything else is one token, spaces included.
const tokensOf = (id) => { const text = control(id).value; return /^\s*#\d+(\s+#\d+)+\s*$/.test(text) ? text.trim().split(/\s+/) : text ? [text] : []; };

// A click takes a token or gives it back; there is one target, and there may be several contrasts.
function choose(id, token) {
  const known = tokensOf(id), rest = known.filter((other) => other !== token && other.startsWith("#"));
  control(id).value = known.includes(token) ? rest.join(" ") : id === "target" ? token : [...rest, token].join(" ");
}

// Which candidates are target and contrast; the words beside the fields name what their ids stand for.
function markSides() {
  const known = new Map((state.read?.candidates ?? []).map((row) => [`#${row.id}`, row.label]));
  for (const button of document.querySelectorAll("#candidates button[data-side]")) {
    button.setAttribute("aria-pressed", String(tokensOf(button.dataset.side).includes(button.dataset.token)));
  }
  for (const id of ["target", "contrast"]) {
    const labels = tokensOf(id).map((token) => known.get(token)).filter(Boolean);
    control(id).title = "A token's text, #id or rank:N" + (id === "contrast" ? "; several: #id #id" : "");
    control(`${id}-label`).textContent = labels.map((label) => ` “${label}”`).join("");
  }
}

function writeFrom(row) {
  act(async () => {
    const box = control("written"), prompt = state.read.prompt;
    if (state.read.asked !== -1) throw new Error("Writing goes on after the whole prompt: choose its last token first.");
    box.hidden = false;
    control("take").hidden = true;
    control("written-words").textContent = `From “${row.label}”:`;
    const show = (text) => { control("written-text").textContent = text; };
    const said = await follow(await send("/api/continue", aboutModel({ prompt, token: row.id })), (job) => show(job.text));
    if (!said) return;
    show(said.text);
    control("written-words").textContent = `From “${row.label}”, ${said.tokens} tokens more${said.ended ? ", to its end" : ""}:`;
    control("take").hidden = false;
    control("take").onclick = () => { control("completion").value = prompt.completion + said.text; readPrompt(); };
  });
}

function listenCandidates() {
  control("tokens").addEventListener("click", (event) => { const i = event.target.dataset?.i; if (i !== undefined) readPrompt(+i); });
  control("tokens").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !state.read) return;
    event.preventDefault();
    readPrompt(Math.min(state.read.tokens.length - 1, Math.max(0, state.read.position + step)));
  });
  control("extra-form").addEventListener("submit", (event) => { event.preventDefault(); readPrompt(state.read.asked); });
}
