# What the scripts share: finding the service, asking it, and saying what came of each check. Sourced, not run.
# shellcheck shell=sh
# POSIX sh: runs under dash and busybox too. The scripts run under `set -eu`.

ROOT=$(cd "$(dirname "$0")/.." && pwd)
DATA_DIR=${DATA_DIR:-$ROOT/.data}
began=$(date +%s)
passed=0 failed=0 skipped=0
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

seconds() { echo $(($(date +%s) - began)); }

# die WHAT…: the check itself could not be done.
die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# help_or_nothing "$@": the smoke scripts take no words; wrong ones are exit 2.
help_or_nothing() {
  case ${1:-} in
    '') ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

# ok NAME SEEN · fail NAME SEEN WHAT-TO-DO · skip NAME WHY
ok() {
  passed=$((passed + 1))
  printf 'ok    %-34s %s\n' "$1" "$2"
}
fail() {
  failed=$((failed + 1))
  printf 'FAIL  %-34s %s\n      %-34s -> %s\n' "$1" "$2" '' "$3"
}
skip() {
  skipped=$((skipped + 1))
  printf 'skip  %-34s %s\n' "$1" "$2"
}

# summary: the last line, and the exit code of the script.
summary() {
  verdict=ok
  [ "$failed" = 0 ] || verdict=FAIL
  printf '%s %s: %d ok, %d failed, %d skipped, %d s\n' \
    "$verdict" "$BASE" "$passed" "$failed" "$skipped" "$(seconds)"
  [ "$failed" = 0 ]
}

# ask PATH [curl options]: sets status and body; the headers are in $WORK/headers. Status 000: no answer.
ask() {
  asked=$1
  shift
  : >"$WORK/headers" >"$WORK/body"
  status=$(curl -sS --noproxy '127.0.0.1,localhost,::1' --max-time 10 -o "$WORK/body" -D "$WORK/headers" \
    -w '%{http_code}' "$@" "$BASE$asked" 2>"$WORK/error") || status=000
  body=$(dd bs=2000 count=1 <"$WORK/body" 2>/dev/null | tr -d '\0')
  [ "$status" != 000 ] || body=$(cat "$WORK/error")
}

# ask_as NAME VALUE PATH [curl options]: with a header that is a secret. It goes to curl through a file, so that it is
# in no list of processes.
ask_as() {
  printf '%s: %s\n' "$1" "$2" >"$WORK/secret"
  shift 2
  ask "$@" -H "@$WORK/secret"
}

header() {
  tr -d '\r' <"$WORK/headers" |
    awk -v name="$1:" 'tolower($1) == name { sub(/^[^:]*: */, ""); print; exit }'
}

# field NAME: a string, number or boolean of the JSON in $body, wherever it stands.
field() { printf '%s' "$body" | sed -nE "s/.*\"$1\" *: *\"?([^\",}]*).*/\1/p"; }

shown() { printf '%s' "$status $(printf '%s' "$body" | tr '\n' ' ' | cut -c 1-160)"; }

is_local() {
  case $BASE in
    http://127.* | http://localhost | http://localhost[:/]* | 'http://[::1]'*) true ;;
    *) false ;;
  esac
}

# find_base: BASE, where `make run` listens when nothing is given.
find_base() {
  if [ -z "${BASE:-}" ]; then
    [ -n "${PORT:-}" ] || PORT=$(sed -n 's/^export PORT=//p' "$DATA_DIR/env" 2>/dev/null) || true
    BASE=http://127.0.0.1:${PORT:-8080}
  fi
  BASE=${BASE%/}
}

# find_service: BASE, its environment, DEV_KEY.
find_service() {
  find_base
  ask /health
  [ "$status" != 000 ] || die "FAIL  Nothing answers at $BASE/health: $body" \
    "      -> Start it (make run), or name the service: BASE=https://… $0"
  ENVIRONMENT=$(field environment)
  if [ -z "${DEV_KEY:-}" ] && [ "$ENVIRONMENT" = development ]; then
    DEV_KEY=dev
  fi
  export BASE ENVIRONMENT DEV_KEY="${DEV_KEY:-}" DATA_DIR
}

# ours WORDS…: python of this checkout.
ours() (
  cd "$ROOT"
  [ ! -x .venv/bin/python ] || PATH=$ROOT/.venv/bin:$PATH
  exec python "$@"
)

# find_token: TOKEN, issued by ourselves where the service runs on this machine; TENANT is what it says.
find_token() {
  if [ -z "${TOKEN:-}" ]; then
    is_local || die "TOKEN is not set: give a user's token, TOKEN=… BASE=$BASE $0"
    TOKEN=$(ours -m ottoai token --org demo --user smoke --ttl 10m 2>"$WORK/error") ||
      die "No token could be issued here, so give one as TOKEN. What went wrong: $(cat "$WORK/error")"
  fi
  payload=$(printf '%s' "$TOKEN" | cut -d. -f2 | tr '_-' '/+')
  while [ $((${#payload} % 4)) != 0 ]; do payload="$payload="; done
  body=$(printf '%s' "$payload" | base64 -d 2>/dev/null) || true
  TENANT=$(field org_id)
  [ -n "$TENANT" ] || TENANT=$(printf '%s' "$body" | sed -nE 's/.*"o" *: *\{[^}]*"id" *: *"([^"]*)".*/\1/p')
  [ -n "$TENANT" ] || die "TOKEN names no tenant (org_id or o.id): is it a token of this service?"
  export TOKEN TENANT
}

# is_problem STATUS TYPE: whether the last answer is that RFC 9457 problem, with everything it must have.
is_problem() {
  [ "$status" = "$1" ] || return 1
  case $(header content-type) in application/problem+json*) ;; *) return 1 ;; esac
  case $(field type) in */"$2") ;; *) return 1 ;; esac
  [ "$(field status)" = "$1" ] && [ -n "$(field title)" ] && [ -n "$(field detail)" ] && [ -n "$(field trace_id)" ]
}

# Checks that both smoke scripts begin with.
check_health() {
  ask /health
  if [ "$status" = 200 ] && [ "$(field status)" = healthy ] && [ "$(field service)" = ottoai-api ]; then
    ok '/health' "200 healthy, version $(field version), $ENVIRONMENT"
  elif [ "$(field status)" = draining ]; then
    fail '/health' "$status draining" 'this process is stopping; try again in half a minute'
  else
    fail '/health' "$(shown)" 'something else answers at this address, or the api process is broken: see its log'
  fi
}

check_ready() {
  ask /ready
  unwell=''
  for component in database redis migrations; do
    # Without the database nobody can say what was applied to it.
    [ "$component" = migrations ] && [ "$(field database)" = false ] && continue
    if [ "$(field "$component")" != true ]; then
      unwell=$component
      fail "/ready $component" "$(shown)" "$(advice "$component")"
    fi
  done
  if [ "$status" = 200 ] && [ "$(field ready)" = true ]; then
    ok '/ready' "200 in $(field duration_ms) ms"
  elif [ -z "$unwell" ]; then
    fail '/ready' "$(shown)" 'this process is stopping; try again in half a minute'
  fi
}

advice() {
  case $1 in
    database) echo 'is PostgreSQL up, and DATABASE_URL right? The api log says "Check failed" with the cause' ;;
    redis) echo 'is Redis up, and REDIS_URL right? The api log says "Check failed" with the cause' ;;
    migrations) echo 'run: python -m ottoai migrate' ;;
    worker) echo 'start a worker: python -m jobs worker (make run restarts it by itself), and see its log' ;;
    beat) echo 'start beat: python -m jobs beat (make run restarts it by itself), and see its log' ;;
  esac
}

check_upgrade() {
  ask /ws -H 'Connection: close'
  if is_problem 426 upgrade-required && [ "$(header upgrade)" = websocket ]; then
    ok 'GET /ws without an upgrade' '426, Upgrade: websocket'
  else
    fail 'GET /ws without an upgrade' "$(shown)" 'expected 426 with Upgrade: websocket; does a proxy rewrite it?'
  fi
}
