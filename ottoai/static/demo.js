/**
 * The page /demo, live: it loads what there is through the API, keeps it up to date by the events of the tenant, and
 * sends texts, completes tasks and brings about missed calls. Events carry what they are about as the API shows it, so
 * that both are kept in one place, the newer version of each.
 */
import { $, clock, describeCall, describeLead, describeRescue, describeTask, fill, movedAt, row, show, summary, timelineOf } from "./demoview.js";
import { Otto } from "./otto.js";

const LISTS = { calls: "/api/calls", leads: "/api/leads", missed_calls: "/api/missed-calls", tasks: "/api/tasks" };
const NOUNS = { "telephony.call": "calls", "telephony.sms": "messages", lead: "leads", missed_call: "missed_calls", task: "tasks" };
const SHOWN = 50; // rows of a list
const KNOWN = 1000; // items of a noun; those that changed longest ago are forgotten
const KEPT = 200; // events on the screen
const RELOAD_MS = 2000; // after a load that failed

const { tenant, since } = document.body.dataset;
const known = { calls: new Map(), leads: new Map(), messages: new Map(), missed_calls: new Map(), tasks: new Map() };
let token = document.body.dataset.token;
let loaded = false; // from then on what comes is news
let selected = null; // the id of a lead
let awaited = null; // the phone of a caller who is to be selected when they are a lead
let drafted = null; // the key of the text that is being written, until it is taken
let drawing = 0;
let waiting = []; // events that came during a pause
let paused = false;
let spoken = []; // what the screen reader is to be told

// What is known

/** Keep an item, unless a newer version is known. */
function keep(noun, item) {
  if (known[noun].get(item.id)?.version >= item.version) return;
  known[noun].delete(item.id);
  known[noun].set(item.id, item);
  const [oldest] = known[noun].keys();
  if (known[noun].size > KNOWN && oldest !== selected) known[noun].delete(oldest);
  if (noun === "leads" && item.phone === awaited) {
    awaited = null;
    select(item.id);
  }
  drawing ||= requestAnimationFrame(draw);
}

/** The items that come first, by a field or a function of theirs. */
function latest(noun, at) {
  const when = typeof at === "function" ? at : (item) => Date.parse(item[at]);
  return [...known[noun].values()].sort((a, b) => when(b) - when(a)).slice(0, SHOWN);
}

function nameOf(leadId) {
  const lead = known.leads.get(leadId);
  return lead ? (lead.name ?? lead.phone) : leadId ? "A caller" : "";
}

function draw() {
  drawing = 0;
  show($("leads"), latest("leads", "last_contact_at"), "lead", (lead, element) => {
    element.firstElementChild.setAttribute("aria-pressed", lead.id === selected);
    return describeLead(lead);
  }, loaded);
  show($("calls"), latest("calls", "started_at"), "call", describeCall, loaded);
  show($("rescues"), latest("missed_calls", movedAt), "rescue", (rescue, element) =>
    describeRescue(rescue, nameOf(rescue.lead_id), element), loaded);
  show($("tasks"), latest("tasks", "created_at"), "task", (task) => describeTask(task, nameOf(task.lead_id)), loaded);
  drawConversation();
}

function drawConversation() {
  const lead = known.leads.get(selected);
  const timeline = $("timeline");
  $("h-conversation").textContent = lead ? `${nameOf(selected)}, ${lead.phone}` : "Conversation";
  $("compose").hidden = !lead;
  const atEnd = timeline.scrollHeight - timeline.scrollTop - timeline.clientHeight < 40;
  const happened = lead ? timelineOf(known, selected) : [];
  const items = happened.map(({ item, ...told }) => ({ id: item.id, version: item.version, told }));
  const before = timeline.children.length;
  show(timeline, items, "happening", ({ told }, element) => {
    element.dataset.status = told.badge;
    return told;
  }, loaded && before > 0);
  if (atEnd || timeline.children.length !== before) timeline.scrollTop = timeline.scrollHeight;
}

/** Load all lists, and the timeline of the lead that is looked at. */
async function load() {
  try {
    await Promise.all(Object.entries(LISTS).map(async ([noun, path]) => {
      for (const item of (await api("GET", `${path}?limit=${SHOWN}`)).items) keep(noun, item);
    }));
    selected = known.leads.has(selected) ? selected : (latest("leads", "last_contact_at")[0]?.id ?? null);
    if (selected) await loadTimeline();
    draw();
    loaded = true;
    document.querySelector("main").ariaBusy = "false";
  } catch (error) {
    say("told", `Not loaded: ${error.message} Trying again.`);
    setTimeout(load, RELOAD_MS);
  }
}

async function loadTimeline() {
  const { items } = await api("GET", `/api/leads/${selected}/timeline?limit=${SHOWN}`);
  for (const { kind, item } of items) keep(`${kind}s`, item);
}

async function select(leadId) {
  selected = leadId;
  drafted = null;
  $("composed").textContent = "";
  draw();
  if (loaded) await loadTimeline().catch((error) => say("composed", error.message));
}

// The API

/** Ask the API; what it answers. Throws what it says is wrong. */
async function api(method, path, body, headers = {}) {
  const json = body ? { "Content-Type": "application/json" } : {};
  const ask = () =>
    fetch(path, { method, body: body && JSON.stringify(body), headers: { Authorization: `Bearer ${token}`, ...json, ...headers } });
  let answer = await ask();
  if (answer.status === 401) {
    await renew();
    answer = await ask();
  }
  return told(answer);
}

async function told(answer) {
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.detail ?? `HTTP ${answer.status}.`), { status: answer.status });
  return said;
}

/** Another token. */
async function renew() {
  token = (await told(await fetch(`/demo/token?tenant=${encodeURIComponent(tenant)}`))).token;
  return token;
}

function say(where, words) {
  $(where).textContent = words;
}

// What happens

function hear(event) {
  const noun = NOUNS[event.event.slice(0, event.event.lastIndexOf("."))];
  if (noun) keep(noun, event.data);
  waiting.push(event);
  if (loaded) speak(event);
  if (paused) $("pause").textContent = `Go on (${waiting.length} more)`;
  else drawEvents();
}

function drawEvents() {
  const list = $("events");
  for (const event of waiting.splice(0).slice(-KEPT)) {
    const element = fill(row("event"), { seq: String(event.seq ?? "–"), at: event.ts, name: event.event, what: summary(event) });
    if (loaded) element.classList.add("news");
    list.prepend(element);
  }
  while (list.children.length > KEPT) list.lastElementChild.remove();
}

/** Tell screen readers, of several at once the last few. */
function speak(event) {
  spoken.push(`${event.event.replaceAll(/[._]/g, " ")}: ${summary(event)}`);
  if (spoken.length === 1) setTimeout(() => ($("heard").textContent = spoken.splice(0).slice(-3).join(". ")), 500);
}

function connected({ state, reason, retryMs }) {
  const shown = { open: "live", connecting: "connecting", stopped: `stopped: ${reason}` };
  $("connection").dataset.state = state;
  say("connection", shown[state] ?? `reconnecting in ${Math.max(1, Math.round(retryMs / 1000))} s`);
  if (state !== "connecting") $("stale").hidden = state === "open";
}

// What can be done

/** Send a sample as its provider does; `changes` replace what it says. */
async function deliver(kind, name, changes) {
  const sample = await told(await fetch(`/demo/samples/${name}`));
  const body = { ...sample, ...changes };
  if (name !== "reply") awaited = body.customer_phone_number;
  const headers = { "Content-Type": "application/json" };
  const answer = await told(await fetch(`/call-rail/${kind}`, { method: "POST", headers, body: JSON.stringify(body) }));
  say("told", `${clock(new Date())}: POST /call-rail/${kind} was ${answer.status}.`);
}

async function reply() {
  const lead = known.leads.get(selected);
  if (!lead) return say("told", "Nobody has called yet: miss a call first.");
  await deliver("text-message", "reply", { source_number: lead.phone, content: $("words").value });
}

async function send() {
  drafted ??= [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const body = { body: $("text").value };
  keep("messages", await api("POST", `/api/leads/${selected}/messages`, body, { "Idempotency-Key": drafted }));
  drafted = null;
  $("text").value = "";
  say("composed", "");
}

async function complete(id) {
  const path = `/api/tasks/${id}`;
  try {
    keep("tasks", await api("PATCH", path, { status: "done" }, { "If-Match": `"${known.tasks.get(id).version}"` }));
    say("tasked", "Done.");
  } catch (error) {
    if (error.status !== 412) throw error;
    keep("tasks", await api("GET", path));
    say("tasked", "Somebody has changed this task meanwhile. Here it is as it is now.");
  }
}

/** Do something at an element's event; what goes wrong is said there. */
function on(id, type, where, action) {
  $(id)?.addEventListener(type, async (event) => {
    if (type === "submit") event.preventDefault();
    const button = event.submitter ?? (type === "click" ? event.target : null);
    button?.setAttribute("aria-busy", "true");
    try {
      await action(event);
    } catch (error) {
      say(where, error.message);
    } finally {
      button?.removeAttribute("aria-busy");
    }
  });
}

on("missed", "click", "told", () => deliver("call-complete", "missed"));
on("unnoticed", "click", "told", () => deliver("call-complete", "unnoticed"));
on("reply", "submit", "told", reply);
on("compose", "submit", "composed", send);
on("text", "input", "composed", () => (drafted = null));
on("text", "keydown", "composed", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("compose").requestSubmit();
});
on("leads", "click", "composed", async ({ target }) => {
  const chosen = target.closest("li")?.dataset.id;
  if (!chosen) return;
  if ($("conversation").getBoundingClientRect().top > innerHeight / 2) $("conversation").scrollIntoView();
  await select(chosen);
});
on("tasks", "click", "tasked", ({ target }) => target.matches("button") && complete(target.closest("li").dataset.id));
on("pause", "click", "told", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  say("pause", paused ? "Go on" : "Pause");
  if (!paused) drawEvents();
});

document.documentElement.classList.add("live");
document.querySelector("main").ariaBusy = "true"; // until all there is was loaded
$("events").replaceChildren(); // they come again, and are told in full

let fresh = true; // the page's own token has not been used
const otto = new Otto({
  token: () => (fresh ? ((fresh = false), token) : renew()),
  onState: connected,
});
otto.subscribe(`tenant:${tenant}:events`, {
  since,
  onEvent: hear,
  onJoined: ({ recovered }) => loaded || recovered === false || load(),
  onReset: () => {
    for (const items of Object.values(known)) items.clear();
    load();
  },
  onRefused: ({ error }) => say("connection", `refused: ${error}`),
});
