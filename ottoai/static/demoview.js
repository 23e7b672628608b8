/**
 * How /demo shows what there is: rows copied from the page's templates, and the words in them. Whatever came from
 * elsewhere goes in as text, never as HTML.
 */

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const ENDINGS = {
  reply: "the caller wrote back",
  answered_call: "the caller was answered",
  outbound_call: "staff called back",
  outbound_text: "staff wrote",
  task_done: "staff completed the task",
  stop: "the number wants no texts",
  time: "48 hours have passed",
};

export const $ = (id) => document.getElementById(id);

/** A moment in the reader's own time. */
export function clock(moment) {
  const date = new Date(moment);
  return (date.toDateString() === new Date().toDateString() ? CLOCK : DATE).format(date);
}

/** A new row of a template. */
export const row = (template) => $(template).content.firstElementChild.cloneNode(true);

/** Put texts into the fields of a row; `at` is a moment, `kind` chooses the colours. */
export function fill(element, { kind, at, ...texts }) {
  if (kind) element.dataset.kind = kind;
  for (const [name, text] of Object.entries(at ? { ...texts, at: clock(at) } : texts)) {
    const field = element.querySelector(`[data-f="${name}"]`);
    if (name === "at") field.dateTime = at;
    if (field.textContent !== (text ?? "")) field.textContent = text ?? "";
  }
  return element;
}

/** Make a list show these items in this order; rows that stay are kept, and those that are news to it light up. */
export function show(list, items, template, describe, lightUp) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const rows = new Map([...list.children].map((each) => [each.dataset.id, each]));
  for (const [index, item] of items.entries()) {
    const element = rows.get(item.id) ?? row(template);
    rows.delete(item.id);
    fill(element, describe(item, element));
    if (lightUp && element.dataset.version !== String(item.version)) flash(element);
    Object.assign(element.dataset, { id: item.id, version: item.version });
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  }
  for (const element of rows.values()) element.remove();
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

function flash(element) {
  element.classList.remove("news");
  void element.offsetWidth; // so that the animation begins anew
  element.classList.add("news");
}

export const describeLead = (lead) => ({
  who: lead.name ?? lead.phone,
  at: lead.last_contact_at,
  what: [lead.name && lead.phone, lead.source].filter(Boolean).join(" · "),
});

export const describeCall = (call) => ({
  kind: call.missed ? "missed" : call.status,
  who: call.customer_name ?? call.customer_phone ?? "Somebody",
  at: call.started_at,
  badge: outcome(call),
  what: call.customer_name && call.customer_phone ? `${call.direction === "outbound" ? "to" : "from"} ${call.customer_phone}` : "",
});

function outcome({ missed, voicemail, answered, status, duration_seconds }) {
  if (missed) return voicemail ? "missed, with a voicemail" : "missed";
  return answered ? `answered${duration_seconds ? `, ${duration_seconds} s` : ""}` : status;
}

/** When something last happened with a rescue. */
export const movedAt = (rescue) =>
  Math.max(...[rescue.called_at, rescue.first_text_at, rescue.escalated_at, rescue.ended_at].map((at) => Date.parse(at) || 0));

export function describeRescue(rescue, who, element) {
  const steps = [true, rescue.first_text_at, rescue.ended_at ?? rescue.escalated_at];
  for (const [index, step] of [...element.querySelectorAll(".steps li")].entries()) {
    step.classList.toggle("done", Boolean(steps[index]));
  }
  const said = [
    rescue.first_text_at && `Texted ${clock(rescue.first_text_at)}.`,
    rescue.escalated_at && `Nobody had reached them: escalated ${clock(rescue.escalated_at)}.`,
    rescue.ended_by && `${past(rescue)} ${clock(rescue.ended_at)}: ${ENDINGS[rescue.ended_by] ?? rescue.ended_by}.`,
    rescue.text_due_at && due(rescue),
  ];
  return { kind: rescue.status, who, at: rescue.called_at, badge: words(rescue.status), what: said.filter(Boolean).join(" ") };
}

const past = ({ status }) => (status === "recovered" ? "Recovered" : "Ended");
const words = (status) => status.replaceAll("_", " ");

function due({ text_due_at, first_text_at }) {
  const which = first_text_at ? "Next text" : "Text";
  return Date.parse(text_due_at) > Date.now() ? `${which} due ${clock(text_due_at)}.` : `${which} on its way.`;
}

export const describeTask = (task, who) => ({
  kind: task.status,
  who: task.title,
  at: task.created_at,
  what: [
    who,
    task.assigned_to && `for ${task.assigned_to}`,
    task.status === "done" && `done by ${task.completed_by ?? "the system"} ${clock(task.completed_at)}`,
  ].filter(Boolean).join(" · "),
});

/** All that is known of a lead, oldest first: what the API's timeline says, kept up to date by events. */
export function timelineOf(known, leadId) {
  const of = (noun) => [...known[noun].values()].filter((item) => item.lead_id === leadId);
  return [
    ...of("calls").map((item) => ({ item, at: item.started_at, kind: "call", what: item.direction === "outbound" ? "Call to them" : "Call", badge: outcome(item) })),
    ...of("messages").map((item) => ({ item, at: item.created_at, kind: item.direction, what: item.body, badge: fate(item) })),
    ...of("missed_calls").map((item) => ({ item, at: item.called_at, kind: "rescue", what: "Rescue", badge: words(item.status) })),
    ...of("tasks").map((item) => ({ item, at: item.created_at, kind: "task", what: item.title, badge: item.status })),
  ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
}

function fate({ direction, status, error_code, author, step }) {
  if (direction === "inbound") return "";
  const by = author ? ` · ${author}` : step ? " · automatic" : "";
  return `${status}${error_code ? ` (${error_code})` : ""}${by} ·`;
}

/** An event in a few words. Those named test.* carry whatever their sender liked. */
export function summary({ data }) {
  const text = (value) => (typeof value === "string" ? value : "");
  const body = text(data.body);
  return [
    text(data.title) || text(data.name) || text(data.customer_name) || text(data.customer_phone) || text(data.phone),
    words(text(data.status)),
    ENDINGS[data.ended_by],
    body && `“${body.length > 90 ? `${body.slice(0, 90)}…` : body}”`,
  ].filter(Boolean).join(" · ");
}
