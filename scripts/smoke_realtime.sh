#!/bin/sh
# Does real time work? Connects, subscribes, emits test events and resumes, as a client does.
set -eu

usage() {
  cat <<'TEXT'
Usage: [BASE=…] [TOKEN=…] [DEV_KEY=…] scripts/smoke_realtime.sh      (or: make smoke:realtime)

Checks WebSocket and events of the service at BASE. Prints a line a check, and last the verdict. Exits 0 when all are
well, 1 when one is not, 2 for wrong words. Besides curl it needs this checkout's Python (make run makes it).

  BASE      address of the service (where `make run` listens)
  TOKEN     a user's token; its tenant is the one used (issued for tenant demo, with `make run`)
  DEV_KEY   a key of DEV_KEYS for /ws/test-emit (dev, in development). Without one, or in production, nothing is
            emitted, and the checks that need it are skipped.
  DATA_DIR  where `make run` keeps its data (.data)

Leaves in the tenant's log: one event named test.smoke.
TEXT
}

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
help_or_nothing "$@"
find_service
find_token

echo "Real time at $BASE ($ENVIRONMENT), tenant $TENANT"
check_health
check_ready
check_upgrade
# The WebSocket itself: most packaged curls cannot speak it.
if ! ours -m scripts.ws_probe >"$WORK/probe" 2>"$WORK/error"; then
  fail 'WebSocket checks' "$(tail -n 1 "$WORK/error")" 'the probe itself broke off; run: python -m scripts.ws_probe'
fi
unit_separator=$(printf '\037')
while IFS=$unit_separator read -r result name seen todo; do
  case $result in
    ok) ok "$name" "$seen" ;;
    skip) skip "$name" "$seen" ;;
    *) fail "$name" "$seen" "$todo" ;;
  esac
done <"$WORK/probe"
summary
