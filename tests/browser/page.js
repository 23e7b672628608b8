// What the tests hold in their hands: one Otto, named subscriptions, and notes of all that was heard.
import { CLOSES, Otto } from "/static/otto.js";

const notes = [];
const waiting = new Set();
const subscriptions = {};

function note(who, what, detail) {
  notes.push({ who, what, detail });
  for (const check of [...waiting]) check();
}

/** Resolves with what `find` gives as soon as that is something. */
const until = (find) =>
  new Promise((resolve) => {
    const check = () => {
      const found = find();
      if (found) {
        waiting.delete(check);
        resolve(found);
      }
    };
    waiting.add(check);
    check();
  });

const of = (who, what) => notes.filter((n) => n.who === who && n.what === what).map((n) => n.detail);

Object.assign(window, { CLOSES, Otto, notes, note, of, subscriptions });

/** The first `count` notes. */
window.heard = (who, what, count) => until(() => of(who, what).length >= count && of(who, what));

/** A note whose detail has these fields. */
window.told = (who, what, fields) =>
  until(() => of(who, what).find((d) => Object.entries(fields).every(([name, value]) => d[name] === value)));

window.start = (options) => {
  window.otto = new Otto({
    token: () => window.nextToken(),
    onState: (change) => note("otto", "state", change),
    onError: (error) => note("otto", "error", { message: error.message, code: error.code }),
    ...options,
  });
};

window.listen = (who, channel, since) => {
  subscriptions[who] = otto.subscribe(channel, {
    since,
    onEvent: (event) => note(who, "event", event),
    onJoined: (joined) => note(who, "joined", joined),
    onReset: (reset) => note(who, "reset", reset),
    onRefused: (refused) => note(who, "refused", refused),
  });
};

window.loaded();
