#!/bin/sh
# Does everything under the product work? Health, workers, ids, errors, tokens, webhooks, metrics.
set -eu

usage() {
  cat <<'TEXT'
Usage: [BASE=…] [TOKEN=…] [DEV_KEY=…] scripts/smoke_foundations.sh      (or: make smoke:foundations)

Checks health, workers, request ids, errors, tokens, webhooks and metrics of the service at BASE. Prints a line a
check, and last the verdict. Exits 0 when all are well, 1 when one is not, 2 for wrong words.

  BASE           address of the service (where `make run` listens)
  TOKEN          a user's token (issued for tenant demo, with `make run`)
  DEV_KEY        a key of DEV_KEYS for /ws/test-emit (dev, in development)
  METRICS_TOKEN  needed where the service has one set
  DATA_DIR       where `make run` keeps its data (.data)

Leaves behind, in development only: one call of tenant demo, still ringing, and one event named test.smoke.
TEXT
}

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
help_or_nothing "$@"
find_service
find_token
unique=$(date +%s)-$$

check_components() {
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
  alive=$(printf '%s' "$body" | awk '{ print gsub(/"alive":true/, "") }')
  if [ "$status" = 200 ] && [ "$(field healthy)" = true ] && [ "$alive" -ge 2 ]; then
    ok '/internal/worker/heartbeat' "200, $((alive)) processes heard, last tick of beat $(field beat_last_tick)"
  else
    fail '/internal/worker/heartbeat' "$(shown)" \
      'no worker or no beat was heard for 30 s: are they running, and do they reach the same Redis?'
  fi
}

check_request_id() {
  given=smoke-$unique
  ask /health -H "X-Request-Id: $given"
  if [ "$(header x-request-id)" = "$given" ]; then
    ok 'X-Request-Id is given back' "$given"
  else
    fail 'X-Request-Id is given back' "sent $given, got '$(header x-request-id)'" 'does a proxy replace the header?'
  fi
  ask /health -H 'X-Request-Id: not a sane one'
  made=$(header x-request-id)
  if printf '%s\n' "$made" | grep -qE '^[A-Za-z0-9._:-]{1,128}$'; then
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
  ask_as Authorization "Bearer ${TOKEN%?????}AAAAA" /api/calls
  if is_problem 401 unauthenticated; then
    ok '/api/calls with a forged token' '401 problem+json'
  else
    fail '/api/calls with a forged token' "$(shown)" 'expected 401; check JWT_SECRET at once'
  fi
  ask_as Authorization "Bearer $TOKEN" '/api/calls?limit=1'
  if [ "$status" = 200 ] && [ "${body#\{\"items\":\[}" != "$body" ]; then
    ok "/api/calls of tenant $TENANT" '200'
  else
    fail "/api/calls of tenant $TENANT" "$(shown)" 'is the database up, and TOKEN valid? Say: python -m ottoai token inspect -'
  fi
  case "$(header ratelimit) $(header ratelimit-policy)" in
    *';r='*' '*';q='*) ok '/api/calls tells its limits' "$(header ratelimit)" ;;
    *) fail '/api/calls tells its limits' "RateLimit is '$(header ratelimit)'" 'does a proxy take headers away?' ;;
  esac
}

check_emit() {
  emit="/ws/test-emit?event=test.smoke&tenant_id=$TENANT"
  if [ "$ENVIRONMENT" = production ]; then
    ask "$emit" -H 'X-Dev-Key: dev'
    if is_problem 404 not-found; then
      ok '/ws/test-emit' '404: not served in production'
    else
      fail '/ws/test-emit' "$(shown)" 'must not be served in production: is ENVIRONMENT right?'
    fi
    return
  fi
  ask "$emit" -H "X-Dev-Key: wrong-$unique"
  if is_problem 403 forbidden; then
    ok '/ws/test-emit, wrong key' '403 problem+json'
  else
    fail '/ws/test-emit, wrong key' "$(shown)" 'expected 403: check DEV_KEYS'
  fi
  if [ -z "$DEV_KEY" ]; then
    skip '/ws/test-emit' 'DEV_KEY is not set'
    return
  fi
  ask_as X-Dev-Key "$DEV_KEY" "$emit"
  if [ "$status" = 200 ] && [ "$(field success)" = true ] && [ "$(header cache-control)" = no-store ]; then
    ok '/ws/test-emit' "200, seq $(field seq)"
  else
    fail '/ws/test-emit' "$(shown)" 'is the database up, DEV_KEY one of DEV_KEYS, and the tenant of TOKEN one of this service?'
  fi
}

post() { ask "$@" -X POST -H 'Content-Type: application/json'; }

check_webhooks() {
  id=smoke-$unique
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
  dd if=/dev/zero bs=1200000 count=1 2>/dev/null | tr '\0' ' ' >"$WORK/large"
  post /call-rail/call-complete -H 'Expect:' --data-binary "@$WORK/large"
  if is_problem 413 too-large; then
    ok 'webhook over 1 MiB' '413 problem+json'
  else
    fail 'webhook over 1 MiB' "$(shown)" 'expected 413 as application/problem+json; does a proxy answer first?'
  fi
}

check_metrics() {
  if [ -n "${METRICS_TOKEN:-}" ]; then ask_as Authorization "Bearer $METRICS_TOKEN" /metrics; else ask /metrics; fi
  case "$status $(header content-type)" in
    '200 text/plain'*) ;;
    *)
      fail '/metrics' "$(shown)" 'where METRICS_TOKEN is set on the service, give it here too'
      return
      ;;
  esac
  missing=$(awk -F '\t' '
    FILENAME ~ /figures[.]tsv$/ { if ($0 !~ /^#/) { process[$1] = $2; names[++count] = $1 } next }
    /^[^#]/ { name = $0; sub(/[{ ].*/, "", name); there[name] = 1; sub(/_count$/, "", name); there[name] = 1 }
    END { for (k = 1; k <= count; k++) if (!(names[k] in there)) printf "%s (%s) ", names[k], process[names[k]] }' "$ROOT/monitoring/figures.tsv" "$WORK/body")
  if [ -z "$missing" ]; then
    ok '/metrics, figures present' \
      "$(grep -vc '^#' "$ROOT/monitoring/figures.tsv") names, $(grep -vc '^#' "$WORK/body") series"
  else
    fail '/metrics, figures present' "missing: $missing" 'the process in brackets is not heard: is it running, is Redis up?'
  fi
  now=$(date +%s)
  tick=$(awk '/^beat_last_tick_timestamp_seconds[{ ]/ { if ($NF + 0 > most) most = $NF + 0 } END { printf "%d", most }' \
    "$WORK/body")
  age=$((now - tick))
  if [ "$tick" = 0 ]; then
    fail '/metrics, last tick of beat' 'none' "$(advice beat)"
  elif [ "$age" -lt 30 ] && [ "$age" -gt -30 ]; then
    ok '/metrics, last tick of beat' "$age s ago"
  else
    fail '/metrics, last tick of beat' "$age s ago" "$(advice beat); or the clocks of the machines differ"
  fi
  unjudged=$(awk -F '\t' '
    FILENAME ~ /indicators[.]tsv$/ { if ($0 !~ /^#/) wanted[$1] = 1; next }
    /^indicator_verdict[{]/ { match($0, /indicator="[^"]*/); delete wanted[substr($0, RSTART + 11, RLENGTH - 11)] }
    END { for (id in wanted) printf "%s ", id }' "$ROOT/monitoring/indicators.tsv" "$WORK/body")
  if [ -z "$unjudged" ]; then
    ok '/metrics, indicators judged' "$(grep -vc '^#' "$ROOT/monitoring/indicators.tsv")"
  else
    fail '/metrics, indicators judged' "not: $unjudged" 'another version than this checkout, or the watch stumbled: see the api log'
  fi
  odd=$(awk '/^[^#]/ && ($NF + 0 < 0 || $NF ~ /^[Nn][Aa][Nn]$/) { print; exit }' "$WORK/body")
  if [ -z "$odd" ]; then
    ok '/metrics, values' 'none negative, none NaN'
  else
    fail '/metrics, values' "$odd" 'a figure of this kind cannot be negative: compare the clocks of the machines'
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
