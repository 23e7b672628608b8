#!/usr/bin/env bash
# Is the checkout sound? Lint, generated files, tests. Needs no running service.
set -uo pipefail

case ${1:-} in
  -h | --help)
    cat <<'TEXT'
Usage: scripts/verify_foundations.sh      (or: make verify:foundations)

Runs lint, the check that every generated file is current, and all tests, on servers of their own. Every part runs
whatever the others say. Exits 0 when all are well, else 1. ARGS is passed on to pytest.
TEXT
    exit 0
    ;;
esac

cd "$(dirname "$0")/.." || exit 1
SECONDS=0
verdicts=() failed=0

# part NAME WHAT-TO-DO COMMAND…
part() {
  local name=$1 advice=$2 began=$SECONDS
  shift 2
  printf '== %s: %s\n' "$name" "$*"
  if "$@"; then
    verdicts+=("$(printf 'ok    %-16s %4d s' "$name" $((SECONDS - began)))")
  else
    failed=$((failed + 1))
    verdicts+=("$(printf 'FAIL  %-16s %4d s  -> %s' "$name" $((SECONDS - began)) "$advice")")
  fi
}

part lint 'see above; most of it is mended by: ruff check --fix . && ruff format .' make --no-print-directory lint
part generated 'write them anew: python -m scripts.generate' .venv/bin/python -m scripts.generate --check
part tests 'see above; one alone: make test ARGS="-k name"' make --no-print-directory test

echo
printf '%s\n' "${verdicts[@]}"
if ((failed)); then
  printf 'FAIL verify:foundations: %d of %d parts failed, %d s\n' "$failed" "${#verdicts[@]}" "$SECONDS"
  exit 1
fi
printf 'ok verify:foundations: %d parts, %d s\n' "${#verdicts[@]}" "$SECONDS"
