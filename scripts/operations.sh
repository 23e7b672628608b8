#!/bin/sh
# What operators do every day, week and month, as far as a machine can: the rest is said at the end.
set -u

usage() {
  cat <<'TEXT'
Usage: [BASE=…] [TOKEN=…] [DEV_KEY=…] scripts/operations.sh daily|weekly|monthly
       (or: make ops:daily, make ops:weekly, make ops:monthly)

  daily    the indicators, every component of /ready, every worker and beat
  weekly   smoke:foundations and smoke:realtime against BASE, verify:foundations of this checkout
  monthly  what retention left, the month's alerts, sizes (psql, and DATABASE_URL or `make run`)

METRICS_TOKEN as for the snapshot. Prints what each found, then the verdict, and what is left to do by hand.
Exits 0 when all are well, 1 when one is not, 2 for wrong words.
TEXT
}

case ${1:-} in
  daily | weekly | monthly) ;;
  -h | --help)
    usage
    exit 0
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
[ $# = 1 ] || { usage >&2; exit 2; }
when=$1
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
find_base
here=$ROOT/scripts

# part NAME COMMAND…
part() {
  name=$1
  shift
  printf '\n== %s\n' "$name"
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

by_hand() {
  printf '\nBy hand:\n'
  printf '  [ ] %s\n' "$@"
}

components() {
  ask /ready
  printf '%s\n' "$body"
  for component in database redis worker beat migrations; do
    [ "$(field "$component")" = true ] || return 1
  done
}

heartbeats() {
  ask /internal/worker/heartbeat
  printf '%s\n' "$body"
  [ "$status" = 200 ]
}

look_back() {
  if [ -z "${DATABASE_URL:-}" ] && [ -f "$DATA_DIR/env" ]; then
    # shellcheck disable=SC1091
    . "$DATA_DIR/env"
  fi
  [ -n "${DATABASE_URL:-}" ] || { echo 'DATABASE_URL is not set'; return 1; }
  psql --no-psqlrc -v ON_ERROR_STOP=1 -f "$here/monthly.sql" "$DATABASE_URL"
}

case $when in
  daily)
    part 'indicators' "$here/metrics_snapshot.sh" "$BASE"
    part '/ready' components
    part '/internal/worker/heartbeat' heartbeats
    by_hand 'the log of the night: lines of level WARNING, ERROR and CRITICAL (docs/OPERATIONS.md, Reading the logs)' \
      "alerts and open connections over the day: $BASE/ops"
    ;;
  weekly)
    part 'smoke:foundations' "$here/smoke_foundations.sh"
    part 'smoke:realtime' "$here/smoke_realtime.sh"
    part 'verify:foundations' "$here/verify_foundations.sh"
    by_hand "the sparklines of $BASE/ops against last week's: response time, memory, queues, connections" \
      'security: foreign ids, refused tokens, rate limits: who stands in the log?'
    ;;
  monthly)
    part 'retention, alerts, sizes' look_back
    by_hand 'how fast is it? make bench, on a quiet machine: some minutes' \
      'rotate DEV_KEYS, OPS_USERS, METRICS_TOKEN (docs/OPERATIONS.md, Keys)' \
      'alerts that woke somebody for nothing: ALERT_BOUNDS' 'restore a backup somewhere else (docs/OPERATIONS.md)'
    ;;
esac
printf '\n'
summary
