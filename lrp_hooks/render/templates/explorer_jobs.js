// Talking to the server: requests, and jobs, which are followed until they end.

const state = { palette: data.palette, theme: "auto", model: null, entries: [], open: null, chosen: new Set(), read: null, job: null, folder: null };

// The key of this explorer stands behind the # of its address, which browsers do not send. It stays with this tab.
function takeKey() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (found) { sessionStorage.setItem("lrp_hooks", found[1]); history.replaceState(null, "", location.pathname); }
  return sessionStorage.getItem("lrp_hooks") ?? "";
}
let key = takeKey();
addEventListener("hashchange", () => { key = takeKey(); location.reload(); });

async function ask(path, options = {}) {
  try { return await fetch(path, { ...options, headers: { ...options.headers, authorization: `Bearer ${key}` } }); } catch {
    throw new Error("The server does not answer: was lrp-hooks serve stopped?");
  }
}

async function call(path, options = {}) {
  const answer = await ask(path, options), kind = answer.headers.get("content-type") || "";
  const body = kind.startsWith("application/json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Error(body.error || body || `the server says ${answer.status}`);
  return body;
}
const send = (path, form) => call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(form) });
const aboutModel = (form) => ({ model: state.model?.number ?? null, ...form }); // the server refuses it if another took its place

function complain(error) {
  control("error").hidden = !error;
  control("error").textContent = error ? String(error.message || error) : "";
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const words = (seconds) => (seconds < 90 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(1)} min`);

// What is left, from the pace since the step began to count.
let pace = null;
function remaining(job) {
  if (!pace || pace.number !== job.number || pace.step !== job.step || job.done < pace.done) pace = { number: job.number, step: job.step, done: job.done, at: job.seconds };
  const made = job.done - pace.done, took = job.seconds - pace.at;
  return made > 0 && took > 3 ? `, about ${words((took / made) * (job.total - job.done))} left` : "";
}

function showJob(job) {
  const running = job.state === "waiting" || job.state === "running";
  control("work").hidden = !running;
  state.job = running ? job.number : null;
  if (!running) return;
  const bar = control("work-bar");
  control("work-name").textContent = job.name;
  const parts = job.total ? ` ${job.done.toLocaleString("en")}/${job.total.toLocaleString("en")}` : "";
  control("work-step").textContent = job.state === "waiting" ? (job.seconds > 0.5 ? "waits for the work before it" : "") : `${job.step}${parts} · ${words(job.seconds)}${remaining(job)}`;
  if (job.total) { bar.max = job.total; bar.value = job.done; } else bar.removeAttribute("value");
}

// Follow a job to its end; returns its result, or null when it was cancelled.
async function follow(job, each = () => {}) {
  complain(null);
  let wait = 60;
  for (;;) {
    showJob(job);
    each(job);
    if (job.state === "done") return job.result;
    if (job.state === "cancelled") return null;
    if (job.state === "failed") throw new Error(job.error);
    await pause(wait);
    wait = Math.min(400, wait * 1.3);
    job = await call(`/api/jobs/${job.number}`);
  }
}

// What needs no model, at any time; errors are shown.
async function attempt(action) {
  complain(null);
  try { await action(); } catch (error) { complain(error); }
}

// What the model is asked, one thing at a time; errors are shown.
let busy = false;
function setBusy(now) {
  const focus = document.activeElement;
  if (now) setBusy.focus = focus?.closest?.("#ask") ? focus : null;
  busy = now;
  for (const button of document.querySelectorAll("#ask button")) button.disabled = now;
  if (!now) markStale();
  if (!now && document.activeElement === document.body) setBusy.focus?.focus(); // a disabled button loses it
}
async function act(action) {
  if (busy) return;
  setBusy(true);
  try { await action(); } catch (error) {
    complain(error);
    control("work").hidden = true;
    await call("/api/state").then(({ model }) => showModel(model), () => {}); // it may have been replaced in another tab
  }
  setBusy(false);
}
