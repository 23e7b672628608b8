#!/usr/bin/env bash
# The indicators of one scrape beside their healthy values. Needs curl and awk.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/metrics_snapshot.sh [BASE] [summary|full|json]      (or: make metrics:snapshot)

Reads /ready and /metrics of the service at BASE (where `make run` listens) and prints
  summary  each indicator: value, healthy bound, verdict
  full     the same, and below it every figure but the buckets of histograms
  json     the indicators as one JSON object

Verdicts: ok · warning · critical · none (nothing has happened yet that could be judged). Exits 0, or 1 when something
is critical or the service does not answer. METRICS_TOKEN is sent where it is set.

The counters run since each process started, so rates and percentiles are those of that whole time. Where several api
processes answer behind one address, the figures of the api are those of the one that answered.
TEXT
}

base='' form=summary
for word; do
  case $word in
    -h | --help)
      usage
      exit 0
      ;;
    summary | full | json) form=$word ;;
    http://* | https://*) base=${word%/} ;;
    *)
      usage >&2
      exit 1
      ;;
  esac
done
if [ -z "$base" ]; then
  data_dir=${DATA_DIR:-$(dirname "$0")/../.data}
  port=${PORT:-$(sed -n 's/^export PORT=//p' "$data_dir/env" 2>/dev/null || true)}
  base=http://127.0.0.1:${port:-8080}
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# get PATH FILE: prints the status; 000 when nothing answers. The token goes through a file, not a list of processes.
get() {
  curl -sS --noproxy '127.0.0.1,localhost,::1' --max-time 10 -o "$2" -w '%{http_code}' \
    ${METRICS_TOKEN:+-H "@$work/token"} "$base$1" 2>>"$work/error" || true
}

printf 'Authorization: Bearer %s\n' "${METRICS_TOKEN:-}" >"$work/token"
: >"$work/error" >"$work/ready" >"$work/metrics"
ready_status=$(get /ready "$work/ready")
status=$(get /metrics "$work/metrics")
case $status in
  200) ;;
  401)
    echo "$base/metrics wants METRICS_TOKEN: set it as on the service." >&2
    exit 1
    ;;
  *)
    echo "$base/metrics answers ${status/000/nothing}. $(tail -n 1 "$work/error") Is the service running there?" >&2
    exit 1
    ;;
esac

awk -v base="$base" -v form="$form" -v now="$(date +%s)" -v at="$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
  -v ready_status="$ready_status" '
# label(KEY): the value of a label of the present line.
function label(key,    found) {
  if (!match(labels, "[{,]" key "=\"[^\"]*\"")) return ""
  found = substr(labels, RSTART, RLENGTH)
  sub("^[{,]" key "=\"", "", found)
  sub("\"$", "", found)
  return found
}

# bucket(WHICH): gathers the present line into a histogram, over all processes and labels.
function bucket(which,    edge) {
  edge = label("le")
  if (edge == "+Inf" || edge == "inf") { observed[which] += value; return }
  if (!((which, edge) in below)) edges[which] = edges[which] " " edge
  below[which, edge] += value
}

# p95(WHICH): by linear interpolation, as Prometheus does it; past the last edge, that edge.
function p95(which,    count, sorted, n, wanted, low, last, k, width) {
  n = split(edges[which], sorted, " ")
  for (k = 2; k <= n; k++)
    for (count = k; count > 1 && sorted[count] + 0 < sorted[count - 1] + 0; count--) {
      low = sorted[count]; sorted[count] = sorted[count - 1]; sorted[count - 1] = low
    }
  wanted = 0.95 * observed[which]
  low = 0; last = 0
  for (k = 1; k <= n; k++) {
    count = below[which, sorted[k]]
    if (count >= wanted) {
      width = sorted[k] - low
      return count > last ? low + width * (wanted - last) / (count - last) : sorted[k] + 0
    }
    low = sorted[k] + 0; last = count
  }
  return low
}

# row(GROUP, NAME, VALUE, TEXT, BOUND, VERDICT)
function row(group, name, number, text, bound, verdict) {
  rows++
  groups[rows] = group; names[rows] = name; numbers[rows] = number; texts[rows] = text
  bounds[rows] = bound; verdicts[rows] = verdict
  tally[verdict]++
}

# upto(GROUP, NAME, VALUE, TEXT, BOUND, WARNING, CRITICAL): well below WARNING, critical from CRITICAL on.
function upto(group, name, number, text, bound, warning, critical) {
  row(group, name, number, text, bound, number >= critical ? "critical" : number >= warning ? "warning" : "ok")
}

function nothing(group, name, bound, why) { row(group, name, "null", why, bound, "none") }
function percentile(group, name, which, bound, warning, critical,    seconds) {
  if (!observed[which]) { nothing(group, name, bound, "none yet"); return }
  seconds = p95(which)
  upto(group, name, seconds, sprintf("%.1f ms", seconds * 1000), bound, warning, critical)
}
function share(part, whole) { return whole ? part / whole : 0 }
function quoted(text) { gsub(/\\/, "\\\\", text); gsub(/"/, "\\\"", text); return "\"" text "\"" }

FILENAME ~ /ready$/ { ready_body = ready_body $0; next }
/^#/ || !NF { next }
{
  value = $NF + 0
  name = $0
  sub(/[{ ].*/, "", name)
  labels = $0
  sub(/ [^ ]*$/, "", labels)
  labels = index(labels, "{") ? substr(labels, index(labels, "{")) : ""
  if (name !~ /_bucket$/) plain[++plains] = $0
}
name == "http_request_duration_seconds_bucket" {
  # What machines ask every few seconds would flatter the figure.
  if (label("route") !~ /^\/(health|ready|metrics|internal\/worker\/heartbeat|ws)$/) bucket("http")
}
name == "http_requests_total" { requests += value; if (label("status") ~ /^5/ && label("route") != "/ready" && label("route") != "/internal/worker/heartbeat") broken += value }
name == "event_e2e_latency_seconds_bucket" { bucket("e2e") }
name == "ws_connections" { sockets += value }
name == "ws_messages_dropped_total" { dropped += value }
name == "ws_messages_sent_total" { sent += value }
name == "ws_heartbeats_total" { beats += value; if (label("result") == "timeout") silent += value }
name == "worker_task_total" { tasks[label("status")] += value }
name == "worker_task_duration_seconds_bucket" { bucket("task") }
name == "rq_queue_length" { if (value > longest) longest = value; queues = 1 }
name == "outbox_oldest_age_seconds" { if (value > overdue) overdue = value; outbox = 1 }
name == "webhook_requests_total" { webhooks[label("outcome")] += value; deliveries += value }
name == "webhook_processing_seconds_bucket" { bucket("webhook") }
name == "idempotency_duplicates_total" { duplicates += value }
name == "db_pool_connections" && label("state") == "used" { used[label("proc")] = value }
name == "db_pool_max_connections" { most[label("proc")] = value }
name == "redis_memory_used_bytes" { redis_used = value }
name == "redis_memory_max_bytes" { redis_most = value }
name == "cross_tenant_access_attempts_total" { foreign += value }
name == "beat_last_tick_timestamp_seconds" { if (value > tick) tick = value }
name == "build_info" { version = label("version") }
name == "process_resident_memory_bytes" {
  kind = label("proc")
  sub(/-.*/, "", kind)
  if (value > memory[kind]) memory[kind] = value
}

END {
  count = split("database redis migrations worker beat", parts, " ")
  for (k = 1; k <= count; k++) {
    well = ready_body ~ "\"" parts[k] "\":true"
    bad = k <= 3 ? "critical" : "warning"
    row("Components", parts[k], well ? "true" : "false", well ? "true" : "false", "true", well ? "ok" : bad)
  }
  if (tick > now) tick = now
  if (tick) upto("Components", "beat, last tick", now - tick, sprintf("%d s ago", now - tick), "< 30 s ago", 30, 60)
  else nothing("Components", "beat, last tick", "< 30 s ago", "never heard")

  percentile("Requests", "response time, P95", "http", "< 500 ms", 0.5, 1)
  upto("Requests", "answered with 5xx", share(broken, requests), sprintf("%.2f %%", 100 * share(broken, requests)), \
    "< 0.1 %", 0.001, 0.01)
  # A warning only: the count runs since the start, and a single one may be an old bookmark.
  upto("Requests", "foreign ids asked for", foreign + 0, foreign + 0, "0", 1, 1e18)

  percentile("Real time", "event to socket, P95", "e2e", "< 1 s", 1, 2)
  row("Real time", "open connections", sockets + 0, sockets + 0, "> 0 in business hours", sockets ? "ok" : "none")
  upto("Real time", "messages dropped", dropped + 0, sprintf("%d of %d", dropped, dropped + sent), "0", 1, \
    (dropped + sent) / 100 + 1)
  if (beats) upto("Real time", "heartbeat timeouts", share(silent, beats), sprintf("%.1f %%", 100 * share(silent, beats)), \
    "< 5 %", 0.05, 0.2)
  else nothing("Real time", "heartbeat timeouts", "< 5 %", "none yet")

  ended = tasks["success"] + tasks["failure"]
  if (ended) {
    row("Jobs", "success rate", share(tasks["success"], ended), sprintf("%.1f %% of %d", 100 * share(tasks["success"], ended), ended), \
      "> 95 %", tasks["success"] > 0.95 * ended ? "ok" : "critical")
  } else nothing("Jobs", "success rate", "> 95 %", "none yet")
  percentile("Jobs", "duration, P95", "task", "< 30 s", 30, 60)
  if (queues) upto("Jobs", "longest queue", longest + 0, longest + 0, "< 100", 100, 1000)
  else nothing("Jobs", "longest queue", "< 100", "not known")
  if (outbox) upto("Jobs", "overdue in the outbox", overdue + 0, sprintf("%.0f s", overdue), "< 30 s", 30, 300)
  else nothing("Jobs", "overdue in the outbox", "< 30 s", "beat was not heard")

  if (deliveries) {
    upto("Webhooks", "failed", webhooks["failed"], webhooks["failed"] + 0, "0", 1, 1)
    upto("Webhooks", "quarantined or unclaimed", webhooks["quarantined"] + webhooks["unclaimed"], \
      webhooks["quarantined"] + webhooks["unclaimed"], "0", 1, 1e18)
    # A few are strangers; a share this large is a wrong signing key.
    row("Webhooks", "rejected", webhooks["rejected"] + 0, sprintf("%d of %d", webhooks["rejected"], deliveries), "< 5 %", \
      webhooks["rejected"] < 10 || webhooks["rejected"] < deliveries / 20 ? "ok" : "warning")
  } else nothing("Webhooks", "failed", "0", "none came yet")
  row("Webhooks", "duplicates ignored", duplicates + 0, duplicates + 0, "> 0", duplicates ? "ok" : "none")
  percentile("Webhooks", "processing, P95", "webhook", "< 500 ms", 0.5, 1)

  for (proc in most) if (most[proc] && share(used[proc], most[proc]) > busiest) busiest = share(used[proc], most[proc])
  upto("Stores", "database connections", busiest + 0, sprintf("%.0f %% of the pool", 100 * busiest), "< 80 %", 0.8, 1)
  if (redis_most) upto("Stores", "Redis memory", redis_used / redis_most, \
    sprintf("%.0f %% of %d MB", 100 * redis_used / redis_most, redis_most / 1048576), "< 80 %", 0.8, 0.95)
  else upto("Stores", "Redis memory", redis_used + 0, sprintf("%.0f MB", redis_used / 1048576), "< 256 MB", 268435456, 1e18)
  count = split("api 512 worker 256 beat 128", parts, " ")
  for (k = 1; k < count; k += 2) {
    kind = parts[k]; limit = parts[k + 1]
    if (kind in memory) upto("Memory", kind, memory[kind], sprintf("%.0f MB", memory[kind] / 1048576), \
      "< " limit " MB", limit * 1048576, 2 * limit * 1048576)
    else nothing("Memory", kind, "< " limit " MB", "was not heard")
  }

  overall = tally["critical"] ? "critical" : tally["warning"] ? "warning" : "ok"
  if (form == "json") {
    printf "{\"base\":%s,\"at\":%s,\"version\":%s,\"ready\":%s,\"verdict\":%s,\"indicators\":[", \
      quoted(base), quoted(at), quoted(version), ready_status == 200 ? "true" : "false", quoted(overall)
    for (k = 1; k <= rows; k++)
      printf("%s{\"group\":%s,\"name\":%s,\"value\":%s,\"text\":%s,\"healthy\":%s,\"verdict\":%s}", k == 1 ? "" : ",", \
        quoted(groups[k]), quoted(names[k]), numbers[k] ~ /^(true|false|null)$/ ? numbers[k] : sprintf("%.6g", numbers[k]), \
        quoted(texts[k] ""), quoted(bounds[k]), quoted(verdicts[k]))
    print "]}"
  } else {
    printf "%s  version %s  %s  /ready %s\n", base, version, at, ready_status
    for (k = 1; k <= rows; k++) {
      if (groups[k] != groups[k - 1]) printf "\n%s\n", groups[k]
      printf "  %-26s %-20s %-24s %s\n", names[k], texts[k], bounds[k], verdicts[k]
    }
    printf "\n%s: %d ok, %d warning, %d critical, %d none\n", overall, tally["ok"], tally["warning"], tally["critical"], tally["none"]
    if (form == "full") {
      print ""
      for (k = 1; k <= plains; k++) print plain[k]
    }
  }
  exit overall == "critical"
}
' "$work/ready" "$work/metrics"
