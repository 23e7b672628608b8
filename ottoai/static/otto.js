/**
 * The client of the live protocol `ottoai.v1` for browsers, and for Node.js 22 and later. It depends on nothing.
 * How to use it is in docs/CLIENTS.md, what it speaks in docs/PROTOCOL.md.
 *
 * @typedef {"connecting" | "open" | "waiting" | "stopped"} State
 * @typedef {{state: State, code?: number, reason?: string, retryMs?: number}} StateChange
 *   `code` and `reason` say what ended the last connection, `retryMs` when the next one is tried.
 * @typedef {{version: string, event: string, seq: number | null, ts: string, severity: "info" | "warning" | "critical",
 *   trace_id: string, tenant_id: string, lead_id?: string, user_id?: string, data: Object<string, any>}} OttoEvent
 * @typedef {{epoch: number, seq: number, recovered: boolean | null, replayed: number}} Joined
 * @typedef {{epoch: number, seq: number, reason: "epoch" | "not_recovered" | "buffer_dropped" | "overflow"}} Reset
 * @typedef {object} Handlers
 * @property {string | number} [since] The place to go on from, "epoch.seq"; without it, from now on.
 * @property {(event: OttoEvent) => void} [onEvent] In order, and each with a `seq` once.
 * @property {(joined: Joined) => void} [onJoined] The channel was joined, the first time or again.
 * @property {(reset: Reset) => void} [onReset] Events were missed for good: load afresh; what comes is after `seq`.
 * @property {(refused: {channel: string, error: string}) => void} [onRefused] The channel is not, or no longer, yours.
 * @typedef {{readonly channel: string, readonly place: string | null, close: () => void}} Subscription
 *   `place` is what `since` takes, to go on from here after the page was loaded anew.
 */

const PROTOCOL = "ottoai.v1";

/** What ends a connection, and what to do then: the server's own table (ottoai/realtime/messages.py). */
export const CLOSES = Object.freeze({
  1002: ["protocol_error", "stop"],
  1007: ["bad_text", "stop"],
  1009: ["too_large", "stop"],
  1011: ["internal", "back off"],
  1012: ["restarting", "reconnect now"],
  1013: ["try_later", "back off"],
  4400: ["bad_messages", "stop"],
  4401: ["unauthenticated", "new token"],
  4403: ["forbidden", "stop"],
  4408: ["stale", "reconnect now"],
  4409: ["stuck", "reconnect now"],
  4410: ["kicked", "back off"],
  4429: ["over_quota", "back off"],
});

const BACKOFF = [200, 500, 1000, 2000, 5000]; // ms between attempts, each with jitter
const TOKEN_WITHIN = 30_000; // ms for the token function
const WELCOME_WITHIN = 10_000; // ms to connect and be welcomed
const RENEW_EVERY = 5_000; // ms between two renewals at least, however short the tokens' lives
const HELD = 10_000; // events that a subscription holds back at most
const LOST = 0; // an epoch that no log has

const backoff = (attempt) => BACKOFF[Math.min(attempt, BACKOFF.length - 1)] * (0.5 + Math.random());
const kind = (channel) => channel.split(":", 1)[0];

/** Call a handler; what it throws is its own affair. */
function call(handlers, name, detail) {
  try {
    handlers[name]?.(detail);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

/** @param {{epoch: number | null, seq: number}} cursor */
const place = ({ epoch, seq }) => (epoch === null ? String(seq) : `${epoch}.${seq}`);

/** @param {OttoEvent} event */
const channelsOf = ({ tenant_id, lead_id, user_id }) =>
  [`tenant:${tenant_id}:events`, lead_id && `lead:${lead_id}:timeline`, user_id && `user:${user_id}:tasks`];

/**
 * What one subscription has heard of its channel.
 *
 * The server sends an event once to a connection, whichever of its channels it belongs to, and after a join it sends
 * in the order of `seq` what the connection lacks. So once the channel is joined, any event tells that all of this
 * channel up to it has been sent. Before that, an event that came for another channel may be ahead of what is still to
 * come for this one: it is held back until its turn.
 */
class Feed {
  joined = false; // on the present connection
  moved = false; // not joined, but only for a moment: nobody needs to know
  closed = false;
  asked = 0; // where the join that is under way begins
  missing = 0; // events that the join has yet to bring
  held = new Map(); // by number, past the cursor: the event, or null when it was delivered

  constructor(channel, handlers, cursor) {
    this.channel = channel;
    this.handlers = handlers;
    this.cursor = cursor; // all up to here was delivered; null before a first join without `since`
  }

  tell(name, detail) {
    if (!this.closed) call(this.handlers, name, detail);
  }

  /** Begin at a place without the past: the first time, or for a reason because it is lost. */
  begin(epoch, seq, reason) {
    this.cursor = { epoch, seq };
    this.joined = true;
    this.moved = false;
    this.held.clear();
    this.tell("onJoined", { epoch, seq, recovered: reason ? false : null, replayed: 0 });
    if (reason) this.tell("onReset", { epoch, seq, reason });
  }

  /** The channel was joined; false when that was too far back for it, and it must be asked again for this feed. */
  settle({ epoch, seq, recovered, replayed }, request) {
    if (!this.cursor) this.begin(epoch, seq);
    else if (this.cursor.epoch === LOST) this.begin(epoch, seq, "overflow");
    else if ((this.cursor.epoch ?? epoch) !== epoch) this.begin(epoch, seq, "epoch");
    else if (recovered === false && this.cursor.seq <= request.from) this.begin(epoch, seq, "not_recovered");
    else if (recovered === false) return (this.joined = false);
    else if (!this.joined) {
      this.cursor.epoch = epoch;
      this.joined = true;
      this.missing = replayed - this.held.size;
      if (!this.moved) this.tell("onJoined", { epoch, seq, recovered, replayed });
      this.moved = false;
      if (this.missing <= 0) this.release(Infinity);
    }
    return true;
  }

  /** An event with a number came; `mine`: it belongs to this channel. */
  see(event, mine) {
    const { seq } = event;
    if (mine && this.cursor && seq > this.asked && !this.held.has(seq)) {
      this.missing--;
      this.held.set(seq, seq > this.cursor.seq ? event : null);
    }
    if (!this.joined) {
      if (this.held.size > HELD) this.lose();
      return;
    }
    this.release(seq);
    if (seq > this.cursor.seq) this.cursor.seq = seq;
    if (this.missing <= 0) this.release(Infinity);
  }

  /** Deliver what was held back up to a number. Infinity: all of it, though the cursor stays where it is. */
  release(until) {
    if (!this.held.size) return;
    for (const seq of [...this.held.keys()].filter((seq) => seq <= until).sort((a, b) => a - b)) {
      const event = this.held.get(seq);
      if (until === Infinity) this.held.set(seq, null);
      else {
        this.held.delete(seq);
        if (seq > this.cursor.seq) this.cursor.seq = seq;
      }
      if (event) this.tell("onEvent", event);
    }
  }

  /** Too much came ahead: the answer to the join will find that this feed has to begin anew. */
  lose() {
    this.held.clear();
    this.cursor.epoch = LOST;
  }

  /** The server dropped events up to a number. */
  drop(to) {
    if (!this.joined || this.cursor.seq >= to) return;
    for (const seq of this.held.keys()) if (seq <= to) this.held.delete(seq);
    this.cursor.seq = to;
    this.missing = 0;
    this.tell("onReset", { ...this.cursor, reason: "buffer_dropped" });
    this.release(Infinity);
  }

  /** It is being joined again on the same connection. */
  move() {
    this.moved ||= this.joined;
    this.joined = false;
  }

  /** The connection has ended: what was held back will be sent again. */
  rest() {
    this.joined = this.moved = false;
    for (const [seq, event] of this.held) if (event || seq <= this.cursor.seq) this.held.delete(seq);
  }
}

/** One connection for all of a page's subscriptions, kept up until `close()`. */
export class Otto {
  #url;
  #token;
  #handlers;
  /** @type {State} */
  #state = "connecting";
  #link = null; // the present attempt or connection: {socket}
  #attempt = 0; // since all went well
  #jwt = "";
  #renewals = 0;
  #renewedAt = 0;
  #epoch = 0;
  #heartbeat = 20; // seconds
  #seen = 0; // the latest event of this connection
  #heard = 0; // when something last came; 0 while an answer is waited for
  #timers = new Map(); // by name
  /** @type {Map<string, Set<Feed>>} */
  #channels = new Map();
  #requests = []; // joins and leaves that the server has not answered

  /**
   * @param {object} options
   * @param {string | (() => string | Promise<string>)} options.token A JWT, or what gives one: it is asked for each
   *   connection, and before the last one expires.
   * @param {string} [options.url] The API (http…, ws…), with or without `/ws`; the page's own without.
   * @param {(change: StateChange) => void} [options.onState]
   * @param {(error: Error) => void} [options.onError] What went wrong and is tried again.
   */
  constructor({ token, url = "/", onState, onError = (error) => console.warn("otto:", error) }) {
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (!address.pathname.endsWith("/ws")) address.pathname = address.pathname.replace(/\/*$/, "/ws");
    address.hash = "";
    this.#url = address.href;
    this.#token = token;
    this.#handlers = { onState, onError };
    for (const name of ["online", "offline"]) globalThis.addEventListener?.(name, this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    queueMicrotask(() => this.#connect()); // so that no handler is called before there is an Otto
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /**
   * Listen to a channel, until the subscription is closed.
   * @param {string} channel
   * @param {Handlers} [handlers]
   * @returns {Subscription}
   */
  subscribe(channel, { since, ...handlers } = {}) {
    if (typeof channel !== "string" || channel.length > 200) throw new TypeError("channel: must be a short text");
    if (since != null && !/^(\d+\.)?\d+$/.test(since)) throw new TypeError('since: must be "epoch.seq" or a number');
    const [seq, epoch = null] = since == null ? [] : String(since).split(".").reverse().map(Number);
    const feed = new Feed(channel, handlers, since == null ? null : { epoch, seq });
    if (this.#state === "stopped") feed.closed = true;
    else {
      if (!this.#channels.has(channel)) this.#channels.set(channel, new Set());
      this.#channels.get(channel).add(feed);
      if (this.#state === "open") this.#enter(feed);
    }
    return {
      channel,
      get place() {
        return feed.cursor && place(feed.cursor);
      },
      close: () => this.#leave(feed),
    };
  }

  /** End the connection and all subscriptions, for good. */
  close() {
    this.#stop({ reason: "closed" });
  }

  // The connection

  async #connect() {
    if (this.#state === "stopped") return;
    const link = (this.#link = { socket: null });
    this.#become("connecting");
    this.#after("connect", TOKEN_WITHIN, () => this.#down({ reason: "token_timeout" }));
    try {
      const jwt = await this.#fetchToken();
      if (link !== this.#link) return;
      this.#jwt = jwt;
      link.socket = new WebSocket(this.#url, [PROTOCOL, `bearer.${jwt}`]);
    } catch (error) {
      if (link === this.#link) {
        this.#fail(error);
        this.#down({ reason: "token" });
      }
      return;
    }
    this.#after("connect", WELCOME_WITHIN, () => this.#down({ reason: "connect_timeout" }));
    link.socket.onmessage = ({ data }) => link === this.#link && this.#receive(data);
    link.socket.onclose = ({ code }) => {
      const [reason, reaction] = CLOSES[code] ?? ["lost"];
      if (link === this.#link) this.#down({ code, reason, reaction });
    };
  }

  async #fetchToken() {
    const jwt = typeof this.#token === "function" ? await this.#token() : this.#token;
    if (typeof jwt !== "string" || !/^[\w.-]+$/.test(jwt)) throw new TypeError("the token function gave no JWT");
    return jwt;
  }

  /** The connection has ended, or was given up. */
  #down({ code, reason, reaction = "back off" }) {
    if (reaction === "stop" || (reaction === "new token" && typeof this.#token !== "function")) {
      this.#stop({ code, reason });
      return;
    }
    this.#letGo();
    const now = reaction !== "back off" && this.#attempt === 0;
    const retryMs = Math.round(now ? Math.random() * 100 : backoff(this.#attempt));
    this.#attempt++;
    this.#after("connect", retryMs, () => this.#connect());
    this.#become("waiting", { code, reason, retryMs });
  }

  #stop(why) {
    if (this.#state === "stopped") return;
    this.#letGo();
    for (const name of ["online", "offline"]) globalThis.removeEventListener?.(name, this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    for (const feeds of this.#channels.values()) for (const feed of feeds) feed.closed = true;
    this.#channels.clear();
    this.#become("stopped", why);
  }

  /** Forget the present connection: a dead one would take minutes to close. */
  #letGo() {
    const socket = this.#link?.socket;
    this.#link = null;
    this.#requests = [];
    this.#renewals = 0;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    for (const feeds of this.#channels.values()) for (const feed of feeds) feed.rest();
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #become(state, why = {}) {
    if (state === this.#state) return;
    this.#state = state;
    call(this.#handlers, "onState", { state, ...why });
  }

  #fail(error) {
    call(this.#handlers, "onError", error);
  }

  #after(name, ms, action) {
    clearTimeout(this.#timers.get(name));
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      action();
    }, ms);
    this.#timers.set(name, timer);
  }

  #send(message) {
    this.#link?.socket?.send(JSON.stringify(message));
  }

  // Whether the link still carries

  /** The page or the network is back, or the network went. */
  #wake = ({ type }) => {
    const away = type === "visibilitychange" && document.visibilityState === "hidden";
    if (type === "online" && this.#state === "waiting") this.#connect();
    else if (this.#state === "open" && !away) this.#check(4);
  };

  /** Nothing tells a page of the server's ping frames: after one and a half silent heartbeats it asks itself. */
  #watch() {
    const limit = this.#heartbeat * 1500;
    const idle = Math.max(0, Date.now() - this.#heard); // clocks may be set back
    if (idle >= limit) this.#check(2);
    else this.#after("watch", limit - idle, () => this.#watch());
  }

  /** Ask, and take the link for lost if nothing comes within a part of a heartbeat. */
  #check(part) {
    this.#heard = 0;
    this.#send({ type: "ping" });
    this.#after("watch", (this.#heartbeat * 1000) / part, () => {
      if (this.#heard) this.#watch();
      else this.#down({ reason: "silent", reaction: "reconnect now" });
    });
  }

  // What the server says

  #receive(text) {
    this.#heard = Date.now();
    const message = JSON.parse(text);
    switch (message.type) {
      case "event":
        return this.#event(message);
      case "welcome":
        return this.#welcome(message);
      case "subscribe_result":
      case "unsubscribe_result":
        return this.#result(message);
      case "auth_expiring":
        return this.#renewAfter(Math.max(0, this.#renewedAt + RENEW_EVERY - Date.now()));
      case "error":
        this.#fail(Object.assign(new Error(message.message), { code: message.code }));
        if (message.code === "over-quota") this.#down({ reason: "over_quota" }); // something was not heeded
        else if (this.#renewals) this.#renewAfter(backoff(this.#renewals - 1));
    }
  }

  #welcome({ epoch, heartbeat_seconds }) {
    this.#renewals = 0;
    if (this.#state === "open") return; // the answer to a newer token
    this.#epoch = epoch;
    this.#seen = 0;
    this.#heartbeat = heartbeat_seconds;
    clearTimeout(this.#timers.get("connect"));
    this.#watch();
    for (const name of this.#channels.keys()) this.#join(name);
    if (!this.#requests.length) this.#attempt = 0;
    this.#become("open");
  }

  /** @param {OttoEvent} event */
  #event(event) {
    if (event.event === "system.buffer_dropped") {
      for (const feeds of this.#channels.values()) for (const feed of feeds) feed.drop(event.data.to_seq);
      return;
    }
    this.#seen = Math.max(this.#seen, event.seq ?? 0);
    const names = channelsOf(event);
    for (const [name, feeds] of this.#channels) {
      const mine = names.includes(name);
      for (const feed of feeds) {
        if (event.seq !== null) feed.see(event, mine);
        else if (mine && feed.joined) feed.tell("onEvent", event);
      }
    }
  }

  // The token, in place

  #renewAfter(ms) {
    if (typeof this.#token === "function") this.#after("renew", ms, () => this.#renew());
  }

  async #renew() {
    const link = this.#link;
    this.#renewals++;
    try {
      const jwt = await this.#fetchToken();
      if (link !== this.#link) return;
      if (jwt === this.#jwt) throw new Error("the token function gave the token that runs out");
      this.#jwt = jwt;
      this.#renewedAt = Date.now();
      this.#send({ type: "auth", token: jwt });
    } catch (error) {
      if (link !== this.#link) return;
      this.#fail(error);
      this.#renewAfter(backoff(this.#renewals - 1));
    }
  }

  // Channels

  /** Let a new feed in while the connection is open. */
  #enter(feed) {
    const feeds = this.#channels.get(feed.channel);
    const joined = [...feeds].filter((other) => other.joined);
    if (feed.cursor) this.#bring(feed.channel);
    else if (joined.length) {
      const seq = Math.max(...joined.map((other) => other.cursor.seq));
      queueMicrotask(() => feed.cursor || feed.begin(this.#epoch, seq));
    } else if (!this.#requests.some((request) => request.feeds === feeds)) this.#join(feed.channel);
  }

  /**
   * Join a channel with all that its feeds need. What this connection has had through one channel the server does not
   * send again for another: if some of that is needed, the channels that may have brought it are joined anew after it.
   */
  #bring(channel) {
    const behind = [...(this.#channels.get(channel) ?? [])].some((feed) => !feed.joined && feed.cursor?.seq < this.#seen);
    const others = [...this.#channels.keys()].filter((other) => behind && kind(other) !== kind(channel));
    for (const other of others) {
      for (const feed of this.#channels.get(other)) feed.move();
      this.#ask("unsubscribe", other);
    }
    for (const name of [channel, ...others]) this.#join(name);
  }

  /** Join a channel, or move it, at the earliest place that one of its feeds needs. */
  #join(channel) {
    const feeds = this.#channels.get(channel);
    if (!feeds) return;
    const known = [...feeds].filter((feed) => feed.cursor);
    const sure = known.filter((feed) => (feed.cursor.epoch ?? this.#epoch) === this.#epoch);
    const first = (sure.length ? sure : known).reduce((a, b) => (a && a.cursor.seq <= b.cursor.seq ? a : b), null);
    const from = first && first.cursor.seq;
    for (const feed of feeds) if (!feed.joined) feed.asked = from;
    this.#ask("subscribe", channel, { feeds, from }, first && { since: place(first.cursor) });
  }

  #leave(feed) {
    const { channel } = feed;
    const feeds = this.#channels.get(channel);
    feed.closed = true;
    if (!feeds?.delete(feed) || feeds.size) return;
    this.#channels.delete(channel);
    if (this.#state === "open") this.#ask("unsubscribe", channel);
  }

  #ask(type, channel, request, more) {
    this.#requests.push({ type: `${type}_result`, channel, ...request });
    this.#send({ type, channel, ...more });
  }

  /** Answers come in the order of the requests; what answers none says that the right to a channel was lost. */
  #result(message) {
    const { type, channel, success, error, retry_after } = message;
    const index = this.#requests.findIndex((request) => request.type === type && request.channel === channel);
    const [request] = index < 0 ? [] : this.#requests.splice(index, 1);
    const left = type === "unsubscribe_result";
    if (!request) {
      if (left || !success) this.#refuse(channel, this.#channels.get(channel), error);
    } else if (left) {
      return;
    } else if (this.#requests.some(({ feeds }) => feeds === request.feeds)) {
      return; // it was asked again meanwhile: that answer counts
    } else if (success) {
      const settled = [...request.feeds].map((feed) => feed.settle(message, request));
      if (settled.includes(false)) this.#join(channel);
    } else if (retry_after == null) {
      this.#refuse(channel, request.feeds, error);
    } else {
      this.#fail(new Error(`${channel}: ${error}`));
      this.#after(`retry ${channel}`, retry_after * 1000, () => this.#bring(channel));
    }
    if (!this.#requests.length) this.#attempt = 0;
  }

  #refuse(channel, feeds = new Set(), error) {
    if (this.#channels.get(channel) === feeds) this.#channels.delete(channel);
    for (const feed of [...feeds]) {
      feeds.delete(feed);
      feed.tell("onRefused", { channel, error });
      feed.closed = true;
    }
  }
}
