// Keeps the status page up to date: fetches it every few seconds and changes what differs, in place, so that focus,
// open details, typed text and the place on the page stay. The page needs none of this.
"use strict";

const EVERY = 2000; // ms
const PATIENCE = 5000; // ms until the server counts as not reached
const reach = document.getElementById("reach");
const hold = document.getElementById("hold");
let reached = new Date();
let held = false;
let timer = 0;

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.id : "";
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && key(one) === key(other);
}

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function morphChildren(old, fresh) {
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let found = place;
    if (key(wanted)) {
      found = [...old.children].find((child) => alike(child, wanted)) ?? null;
    } else if (found && !alike(found, wanted)) {
      found = null;
    }
    if (!found) {
      old.insertBefore(document.importNode(wanted, true), place);
      continue;
    }
    // What stands before it and is not wanted there is taken away, rather than moving what may have the focus.
    while (place && place !== found && !(key(place) && fresh.querySelector(`#${CSS.escape(key(place))}`))) {
      const gone = place;
      place = place.nextSibling;
      gone.remove();
    }
    if (place === found) place = found.nextSibling;
    else old.insertBefore(found, place);
    morph(found, wanted);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.isEqualNode(fresh)) return;
  morphAttributes(old, fresh);
  morphChildren(old, fresh);
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const live = fresh.getElementById("live");
  if (!live) throw new Error("This is not the status page.");
  const focused = document.activeElement;
  morph(document.getElementById("live"), live);
  document.title = fresh.title;
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

async function update() {
  try {
    const answer = await fetch(location.pathname + location.search, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`The answer was ${answer.status}.`);
    const text = await answer.text();
    if (held) return;
    show(text);
    reached = new Date();
    reach.hidden = true;
  } catch (error) {
    reach.textContent = `Not reached since ${reached.toISOString().slice(11, 19)} UTC: what you see is of then.`;
    reach.hidden = false;
  } finally {
    plan();
  }
}

function plan(wait = EVERY) {
  clearTimeout(timer);
  if (!held && document.visibilityState === "visible") timer = setTimeout(update, wait);
}

document.addEventListener("visibilitychange", () => plan(0));
hold.addEventListener("click", () => {
  held = !held;
  hold.setAttribute("aria-pressed", String(held));
  plan(0);
});
hold.hidden = false;
plan();
