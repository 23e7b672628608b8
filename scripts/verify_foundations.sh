#!/bin/sh
# Is the checkout sound? Lint, generated files, tests. Needs no running service.
set -u

usage() {
  cat <<'TEXT'
Usage: scripts/verify_foundations.sh [lint] [generated] [tests]      (or: make verify:foundations)

Runs lint, the check that every generated file is current, and all tests, on servers of their own; or the parts that
are named. Each runs whatever the others say. ARGS is passed on to pytest. Exits 0 when all are well, 1 when one is
not, 2 for wrong words.
TEXT
}

parts=${*:-lint generated tests}
for word in $parts; do
  case $word in
    lint | generated | tests) ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
done

cd "$(dirname "$0")/.." || exit 1
began=$(date +%s)
verdicts='' count=0 failed=0

# part NAME WHAT-TO-DO COMMAND…
part() {
  name=$1 advice=$2 since=$(date +%s)
  shift 2
  printf '== %s: %s\n' "$name" "$*"
  count=$((count + 1))
  if "$@"; then result=ok advice=''; else result=FAIL failed=$((failed + 1)); fi
  line=$(printf '%-5s %-16s %4d s%s' "$result" "$name" $(($(date +%s) - since)) "${advice:+  -> $advice}")
  verdicts="$verdicts
$line"
}

for word in $parts; do
  case $word in
    lint) part lint 'see above; most of it is mended by: ruff check --fix . && ruff format .' \
      make --no-print-directory lint ;;
    generated) part generated 'write them anew: python -m scripts.generate' \
      .venv/bin/python -m scripts.generate --check ;;
    tests) part tests 'see above; one alone: make test ARGS="-k name"' make --no-print-directory test ;;
  esac
done

printf '%s\n' "$verdicts"
verdict=ok
[ "$failed" = 0 ] || verdict=FAIL
printf '%s verify:foundations: %d of %d parts failed, %d s\n' "$verdict" "$failed" "$count" $(($(date +%s) - began))
[ "$failed" = 0 ]
