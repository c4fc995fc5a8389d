// The prompt's tokens, what could come after each, and what the model would say from there.

const LISTED = 3000; // tokens that are shown one by one

// Chosen ids are asked for too, so that the table knows what they stand for.
const chosenIds = () => ["target", "contrast"].flatMap(tokensOf).filter((token) => /^#\d+$/.test(token));

function readPrompt(position = -1) {
  act(async () => {
    const prompt = thePrompt(), same = state.read && !isStale();
    const extra = [...new Set([...(control("extra").value ? [control("extra").value] : []), ...chosenIds()])];
    const read = await follow(await send("/api/read", aboutModel({ prompt, position, extra, composite: control("composite").value })));
    if (!read) return;
    const end = read.position === read.tokens.length - 1;
    state.read = { ...read, prompt, asked: end ? -1 : read.position };
    if (!same) control("written").hidden = true;
    control("candidates-card").hidden = false;
    drawTokens();
    drawCandidates();
  });
}

function drawTokens() {
  const { tokens, position } = state.read, box = control("tokens"), first = Math.max(0, tokens.length - LISTED);
  box.replaceChildren();
  if (first) make("span", box, "note", `… ${first.toLocaleString("en")} tokens before …`);
  tokens.slice(first).forEach((token, k) => {
    const node = make("span", box, token.special ? "special" : "", token.text.replaceAll("↵", "↵\n"));
    node.dataset.i = first + k;
    node.id = `token-${first + k}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", "false");
  });
  pointAt(position);
}

// Mark a token, and show it if it is out of sight.
function pointAt(position) {
  const box = control("tokens");
  for (const node of box.querySelectorAll('[aria-selected="true"]')) node.setAttribute("aria-selected", "false");
  const chosen = box.querySelector(`[data-i="${position}"]`);
  if (!chosen) return;
  chosen.setAttribute("aria-selected", "true");
  box.setAttribute("aria-activedescendant", chosen.id);
  const top = chosen.offsetTop - box.offsetTop;
  if (top < box.scrollTop || top + chosen.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = Math.max(0, top - box.clientHeight / 2);
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
    let text = "";
    const show = (words) => { text = words || text; control("written-text").textContent = text; };
    show(row.label);
    box.scrollIntoView({ block: "nearest" });
    const said = await follow(await send("/api/continue", aboutModel({ prompt, token: row.id })), (job) => show(job.text));
    if (said) show(said.text);
    control("written-words").textContent = said ? `From “${row.label}”, ${said.tokens} tokens more${said.ended ? ", to its end" : ""}:` : `From “${row.label}”, stopped:`;
    control("take").hidden = false;
    control("take").onclick = () => { fillPrompt({ ...prompt, completion: prompt.completion + text }); readPrompt(); };
    box.scrollIntoView({ block: "nearest" });
  });
}

// Arrow keys move through the tokens at once; what comes next is asked when they rest.
let resting = null;
function step(event) {
  if (!state.read || isStale()) return;
  const last = state.read.tokens.length - 1, at = state.read.position;
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  state.read.position = Math.min(last, Math.max(0, to));
  pointAt(state.read.position);
  clearTimeout(resting);
  resting = setTimeout(() => readPrompt(state.read.position), 250);
}

function listenCandidates() {
  control("tokens").addEventListener("click", (event) => { const i = event.target.dataset?.i; if (i !== undefined && !isStale()) readPrompt(+i); });
  control("tokens").addEventListener("keydown", step);
  control("extra-form").addEventListener("submit", (event) => { event.preventDefault(); readPrompt(state.read.asked); });
}
