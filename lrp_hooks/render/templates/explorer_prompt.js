// The model and the prompt: what the form holds, and what it is filled with again.

const ROLES = ["system", "user", "assistant"];
const chatting = () => document.querySelector('input[name="kind"]:checked').value === "chat";

function addTurn(role, content = "") {
  const turn = make("div", control("turns"), "turn"), choice = make("select", turn), text = document.createElement("textarea");
  choice.setAttribute("aria-label", "Role");
  for (const name of ROLES.includes(role) ? ROLES : [...ROLES, role]) make("option", choice, "", name).value = name;
  choice.value = role;
  const drop = make("button", turn, "", "remove");
  drop.type = "button";
  drop.addEventListener("click", () => turn.remove());
  Object.assign(text, { rows: 3, value: content, spellcheck: false });
  text.setAttribute("aria-label", "Message");
  turn.append(text);
}

function buildTurns(messages) {
  control("turns").replaceChildren();
  for (const { role, content } of messages) addTurn(role, content);
  const more = make("button", control("turns"), "", "another message");
  more.type = "button";
  more.addEventListener("click", () => { addTurn("user"); control("turns").append(more); });
}

function thePrompt() {
  const completion = control("completion").value;
  if (!chatting()) return { text: control("prompt-text").value, completion };
  const messages = [...document.querySelectorAll(".turn")].map((turn) => ({
    role: turn.querySelector("select").value, content: turn.querySelector("textarea").value,
  }));
  return { messages, completion };
}

function fillPrompt(prompt) {
  const kind = prompt.messages ? "chat" : "text";
  document.querySelector(`input[name="kind"][value="${kind}"]`).checked = true;
  if (prompt.messages) buildTurns(prompt.messages); else control("prompt-text").value = prompt.text;
  control("completion").value = prompt.completion;
  switchKind();
  markStale();
}

function switchKind() {
  control("turns").hidden = !chatting();
  control("prompt-text").hidden = chatting();
  if (chatting() && !document.querySelector(".turn")) buildTurns([{ role: "user", content: control("prompt-text").value }]);
}

// Candidates belong to the prompt that was read: when another stands in the form they wait.
function isStale() { return Boolean(state.read) && JSON.stringify(thePrompt()) !== JSON.stringify(state.read.prompt); }
function markStale() {
  const stale = isStale();
  control("stale").hidden = !stale;
  control("candidates-card").classList.toggle("stale", stale);
  control("candidates-card").querySelectorAll("button").forEach((button) => { button.disabled = busy || stale; });
}

function showModel(model) {
  state.model = model;
  const size = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} B` : `${(n / 1e6).toFixed(0)} M`);
  control("model-words").textContent = model ? `${model.name} · ${model.class} · ${size(model.parameters)} parameters · ${model.dtype} · ${model.device}` : "none yet";
  control("model-change").open = !model;
  control("chat-kind").hidden = Boolean(model && !model.chat);
  if (model && !model.chat && chatting()) { document.querySelector('input[name="kind"][value="text"]').checked = true; switchKind(); }
}

function listenPrompt() {
  control("prompt-form").addEventListener("input", markStale);
  control("prompt-form").addEventListener("click", markStale); // turns are added and removed
  control("prompt-form").addEventListener("change", (event) => { if (event.target.name === "kind") switchKind(); });
  control("prompt-form").addEventListener("submit", (event) => { event.preventDefault(); readPrompt(); });
  control("prompt-form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); readPrompt(); } });
  control("model-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const [name, dtype, device, revision] = ["name", "dtype", "device", "revision"].map((id) => control(`model-${id}`).value.trim());
    act(async () => {
      try { await follow(await send("/api/load", { name, dtype, device: device || null, revision: revision || null })); } finally {
        control("candidates-card").hidden = true;
        state.read = null;
        showModel((await call("/api/state")).model);
      }
    });
  });
}
