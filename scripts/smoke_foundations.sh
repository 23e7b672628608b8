#!/usr/bin/env bash
# Does everything under the product work? Health, workers, ids, errors, tokens, webhooks, metrics.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: [BASE=…] [TOKEN=…] [DEV_KEY=…] scripts/smoke_foundations.sh      (or: make smoke:foundations)

Checks health, workers, request ids, errors, tokens, webhooks and metrics of the service at BASE. Prints a line a
check; exits 0 when all are well, else 1.

  BASE           address of the service (where `make run` listens)
  TOKEN          a user's token (issued for tenant demo, with `make run`)
  DEV_KEY        a key of DEV_KEYS for /ws/test-emit (dev, in development)
  METRICS_TOKEN  needed where the service has one set
  DATA_DIR       where `make run` keeps its data (.data)

Leaves behind, in development only: one call of tenant demo, still ringing, and one event named test.smoke.
TEXT
}

case ${1:-} in -h | --help)
  usage
  exit 0
  ;;
esac
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
find_service
find_token

# The figures that must be there from the first scrape on. Those that first exist once something happened
# (cross_tenant_access_attempts_total, worker_task_duration_seconds, worker_task_wait_seconds) cannot be asked for.
FIGURES='beat_last_tick_timestamp_seconds build_info db_pool_connections db_pool_max_connections db_pool_wait_seconds
  db_query_duration_seconds event_e2e_latency_seconds event_loop_lag_seconds events_repaired_total
  http_request_duration_seconds http_requests_in_flight http_requests_total idempotency_duplicates_total
  outbox_oldest_age_seconds outbox_open process_cpu_seconds_total process_open_fds process_resident_memory_bytes
  rate_limit_checks_total ready
  redis_memory_max_bytes redis_memory_used_bytes redis_ping_seconds rq_jobs rq_queue_length
  rq_queue_oldest_job_age_seconds rq_workers webhook_processing_seconds webhook_requests_total
  worker_last_heartbeat_timestamp_seconds worker_task_total ws_auth_failures_total ws_connections
  ws_connections_opened_total ws_disconnects_total ws_heartbeats_total ws_messages_dropped_total
  ws_messages_sent_total'

check_components() {
  local component
  for component in worker beat; do
    ask /ready
    if [ "$(field "$component")" = true ]; then
      ok "/ready $component" 'true'
    elif [ "$(field redis)" = false ]; then
      fail "/ready $component" 'not known while Redis is away' "$(advice redis)"
    else
      fail "/ready $component" "$(shown)" "$(advice "$component")"
    fi
  done
}

check_heartbeat() {
  ask /internal/worker/heartbeat
  local alive
  alive=$(printf '%s' "$body" | awk '{ print gsub(/"alive":true/, "") }')
  if [ "$status" = 200 ] && [ "$(field healthy)" = true ] && [ "$alive" -ge 2 ]; then
    ok '/internal/worker/heartbeat' "200, $((alive)) processes heard, last tick of beat $(field beat_last_tick)"
  else
    fail '/internal/worker/heartbeat' "$(shown)" \
      'no worker or no beat was heard for 30 s: are they running, and do they reach the same Redis?'
  fi
}

check_request_id() {
  local given="smoke-$RANDOM$RANDOM" made
  ask /health -H "X-Request-Id: $given"
  if [ "$(header x-request-id)" = "$given" ]; then
    ok 'X-Request-Id is given back' "$given"
  else
    fail 'X-Request-Id is given back' "sent $given, got '$(header x-request-id)'" 'does a proxy replace the header?'
  fi
  ask /health -H 'X-Request-Id: not a sane one'
  made=$(header x-request-id)
  if [[ $made =~ ^[A-Za-z0-9._:-]{1,128}$ ]]; then
    ok 'X-Request-Id is made up otherwise' "$made"
  else
    fail 'X-Request-Id is made up otherwise' "got '$made'" 'every answer must carry one'
  fi
}

check_errors() {
  ask /nothing-here
  if is_problem 404 not-found; then
    ok 'unknown address' '404 problem+json, with trace_id'
  else
    fail 'unknown address' "$(shown)" 'expected 404 as application/problem+json'
  fi
  ask /api/calls
  if is_problem 401 unauthenticated && [ "$(header www-authenticate)" = Bearer ]; then
    ok '/api/calls without a token' '401 problem+json, WWW-Authenticate: Bearer'
  else
    fail '/api/calls without a token' "$(shown)" 'expected 401 as application/problem+json; data may be open to all'
  fi
  ask /api/calls -H @<(with_header Authorization "Bearer ${TOKEN%?????}AAAAA")
  if is_problem 401 unauthenticated; then
    ok '/api/calls with a forged token' '401 problem+json'
  else
    fail '/api/calls with a forged token' "$(shown)" 'expected 401; check JWT_SECRET at once'
  fi
  ask '/api/calls?limit=1' -H @<(with_header Authorization "Bearer $TOKEN")
  if [ "$status" = 200 ] && [ "${body#\{\"items\":\[}" != "$body" ]; then
    ok "/api/calls of tenant $TENANT" '200'
  else
    fail "/api/calls of tenant $TENANT" "$(shown)" 'is the database up, and TOKEN valid? Say: python -m ottoai token inspect -'
  fi
  if [[ $(header ratelimit) == *';r='* ]] && [[ $(header ratelimit-policy) == *';q='* ]]; then
    ok '/api/calls tells its limits' "$(header ratelimit)"
  else
    fail '/api/calls tells its limits' "RateLimit is '$(header ratelimit)'" 'does a proxy take headers away?'
  fi
}

check_emit() {
  local path="/ws/test-emit?event=test.smoke&tenant_id=$TENANT"
  if [ "$ENVIRONMENT" = production ]; then
    ask "$path" -H 'X-Dev-Key: dev'
    if is_problem 404 not-found; then
      ok '/ws/test-emit' '404: not served in production'
    else
      fail '/ws/test-emit' "$(shown)" 'must not be served in production: is ENVIRONMENT right?'
    fi
    return
  fi
  ask "$path" -H "X-Dev-Key: wrong-$RANDOM"
  if is_problem 403 forbidden; then
    ok '/ws/test-emit, wrong key' '403 problem+json'
  else
    fail '/ws/test-emit, wrong key' "$(shown)" 'expected 403: check DEV_KEYS'
  fi
  if [ -z "$DEV_KEY" ]; then
    skip '/ws/test-emit' 'DEV_KEY is not set'
    return
  fi
  ask "$path" -H @<(with_header X-Dev-Key "$DEV_KEY")
  if [ "$status" = 200 ] && [ "$(field success)" = true ] && [ "$(header cache-control)" = no-store ]; then
    ok '/ws/test-emit' "200, seq $(field seq)"
  else
    fail '/ws/test-emit' "$(shown)" 'is the database up, DEV_KEY one of DEV_KEYS, and the tenant of TOKEN one of this service?'
  fi
}

post() { ask "$1" -X POST -H 'Content-Type: application/json' "${@:2}"; }

check_webhooks() {
  local id
  id="smoke-$(date +%s)-$RANDOM"
  post /call-rail/pre-call -d "{\"call\": {\"id\": \"$id\"}}"
  if [ "$ENVIRONMENT" = development ]; then
    if [ "$status" = 200 ] && [ "$(field status)" = processed ]; then
      ok 'unsigned webhook, new' '200 processed (development only)'
    else
      fail 'unsigned webhook, new' "$(shown)" 'expected 200 processed: see "Webhook" in the api log'
    fi
    post /call-rail/pre-call -d "{\"call\": {\"id\": \"$id\"}}"
    if [ "$status" = 200 ] && [ "$(field status)" = duplicate_ignored ]; then
      ok 'unsigned webhook, again' '200 duplicate_ignored'
    else
      fail 'unsigned webhook, again' "$(shown)" 'expected 200 duplicate_ignored: is idempotency_keys intact?'
    fi
  elif is_problem 400 invalid-input || is_problem 401 bad-signature; then
    ok 'unsigned webhook' "$status, refused"
  else
    fail 'unsigned webhook' "$(shown)" 'expected 400 or 401; only ENVIRONMENT=development may take unsigned ones'
  fi
  post /call-rail/call-complete -d '{"broken'
  if is_problem 400 invalid-input; then
    ok 'webhook that is not JSON' '400 problem+json'
  else
    fail 'webhook that is not JSON' "$(shown)" 'expected 400 as application/problem+json'
  fi
  head -c 1200000 /dev/zero | tr '\0' ' ' >"$WORK/large"
  post /call-rail/call-complete -H 'Expect:' --data-binary "@$WORK/large"
  if is_problem 413 too-large; then
    ok 'webhook over 1 MiB' '413 problem+json'
  else
    fail 'webhook over 1 MiB' "$(shown)" 'expected 413 as application/problem+json; does a proxy answer first?'
  fi
}

check_metrics() {
  local name missing='' tick now
  ask /metrics -H @<(with_header Authorization "Bearer ${METRICS_TOKEN:-none}")
  if [ "$status" != 200 ] || [[ $(header content-type) != text/plain* ]]; then
    fail '/metrics' "$(shown)" 'where METRICS_TOKEN is set on the service, give it here too'
    return
  fi
  for name in $FIGURES; do
    grep -qE "^$name(_count)?(\{| )" "$WORK/body" || missing+=" $name"
  done
  if [ -z "$missing" ]; then
    ok '/metrics, figures present' "$(wc -w <<<"$FIGURES") names, $(grep -vc '^#' "$WORK/body") series"
  else
    fail '/metrics, figures present' "missing:$missing" \
      'worker_task…, beat_… and outbox_… come from worker and beat, through Redis; the rest from the api process'
  fi
  now=$(date +%s)
  tick=$(awk '/^beat_last_tick_timestamp_seconds[{ ]/ { if ($NF + 0 > most) most = $NF + 0 } END { printf "%d", most }' \
    "$WORK/body")
  if ((now - tick < 30 && tick - now < 30)); then
    ok '/metrics, last tick of beat' "$((now - tick)) s ago"
  else
    fail '/metrics, last tick of beat' "$((now - tick)) s ago" "$(advice beat)"
  fi
  if awk '/^[^#]/ && ($NF + 0 < 0 || $NF == "NaN") { exit 1 }' "$WORK/body"; then
    ok '/metrics, values' 'none negative, none NaN'
  else
    fail '/metrics, values' "$(awk '/^[^#]/ && ($NF + 0 < 0 || $NF == "NaN") { print; exit }' "$WORK/body")" \
      'a figure of this kind cannot be negative: compare the clocks of the machines'
  fi
}

echo "Foundations at $BASE ($ENVIRONMENT), tenant $TENANT"
check_health
check_ready
check_components
check_heartbeat
check_request_id
check_errors
check_upgrade
check_emit
check_webhooks
check_metrics
summary
