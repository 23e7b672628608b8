#!/bin/sh
# Every indicator with its value, what is well, and the verdict. Needs curl and awk.
set -eu

usage() {
  cat <<'TEXT'
Usage: scripts/metrics_snapshot.sh [BASE] [summary|full|json]      (or: make metrics:snapshot)

Asks the service at BASE (where `make run` listens) for its indicators: of all processes together, over the windows of
monitoring/indicators.tsv, judged as /ops and the alerts judge them.
  summary  each one: value, what is well, verdict; and what to do about those that are not
  full     the same, and below it every figure but the buckets of histograms
  json     the indicators as one JSON object

Verdicts: ok · info · warning · critical · – (no data, or not judged now). "Well" is as delivered; where ALERT_BOUNDS
says otherwise, the verdict follows that. METRICS_TOKEN is sent where it is set.
Exits 0; 1 when something is critical, not ready, not judged at all, or does not answer; 2 for wrong words.
TEXT
}

BASE='' form=summary
for word; do
  case $word in
    -h | --help)
      usage
      exit 0
      ;;
    summary | full | json) form=$word ;;
    http://* | https://*) BASE=$word ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
done
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
find_base

ask /ready
ready=$status
# The process that answers judges for all: its word alone is asked for, not that of every process of a fleet.
scope='?scope=local'
[ "$form" != full ] || scope=''
if [ -n "${METRICS_TOKEN:-}" ]; then
  ask_as Authorization "Bearer $METRICS_TOKEN" "/metrics$scope"
else
  ask "/metrics$scope"
fi
case $status in
  200) ;;
  401) die "FAIL  $BASE/metrics answers 401" '      -> it wants METRICS_TOKEN: set it as on the service' ;;
  000) die "FAIL  Nothing answers at $BASE/metrics: $body" '      -> is the service running there? (make run)' ;;
  *) die "FAIL  $BASE/metrics answers $status" '      -> is it this service, and what does its log say?' ;;
esac

LC_ALL=C awk -F '\t' -v base="$BASE" -v form="$form" -v at="$(date -u +%Y-%m-%dT%H:%M:%SZ)" -v ready="$ready" \
  -v began="$began" '
function label(key,    found) {
  if (!match($0, "[{,]" key "=\"[^\"]*\"")) return ""
  found = substr($0, RSTART, RLENGTH)
  sub("^[{,]" key "=\"", "", found)
  sub("\"$", "", found)
  return found
}

function number() { return substr($0, match($0, / [^ ]*$/) + 1) }

function commas(text,    whole, rest) {
  if (text ~ /e/) return text
  whole = text; sub(/[.].*/, "", whole)
  rest = substr(text, length(whole) + 1)
  for (; length(whole) > 3; whole = substr(whole, 1, length(whole) - 3)) rest = "," substr(whole, length(whole) - 2) rest
  return whole rest
}

# as_shown(UNIT, VALUE): as ottoai.indicators.shown does.
function as_shown(unit, v) {
  if (v == "") return "no data"
  v += 0
  if (unit == "state") return v >= 1 ? "yes" : "no"
  if (unit == "share") return sprintf(v < 0.9995 ? "%.3g %%" : "%.4g %%", v * 100)
  if (unit == "bytes") return commas(sprintf("%.4g", v / 1048576)) " MB"
  if (unit == "times") return commas(sprintf("%.3g", v)) "\303\227"
  if (unit == "count") return v >= 10 || v == int(v) ? commas(sprintf("%.0f", v)) : sprintf("%.1f", v)
  if (v < 1) return sprintf("%.3g ms", v * 1000)
  return commas(sprintf(v < 1000 ? "%.3g" : "%.0f", v)) " s"
}

# padded(TEXT, WIDTH): in characters, not bytes.
function padded(text, width,    bare) {
  bare = text
  gsub(/[\200-\277]/, "", bare)
  return sprintf("%s%*s", text, width > length(bare) ? width - length(bare) : 0, "")
}

function quoted(text) { gsub(/\\/, "\\\\", text); gsub(/"/, "\\\"", text); return "\"" text "\"" }

function table(    k) {
  printf "%s  version %s  %s  /ready %s\n", base, version, at, ready
  for (k = 1; k <= rows; k++) {
    if (group[k] != group[k - 1]) printf "\n%s\n", group[k]
    printf "  %s %s %s %s\n", padded(title[k], 44), padded(text[k], 12), padded(healthy[k], 12), \
      word[k] == "none" ? "\342\200\223" : word[k]
    if (word[k] != "ok" && word[k] != "none") printf "      -> %s\n", action[k]
  }
}

function json(    k) {
  printf "{\"base\":%s,\"at\":%s,\"version\":%s,\"ready\":%s,\"verdict\":%s,\"indicators\":[", quoted(base), \
    quoted(at), quoted(version), ready == 200 ? "true" : "false", quoted(worst)
  for (k = 1; k <= rows; k++) {
    printf "%s{\"id\":%s,\"group\":%s,\"title\":%s,\"unit\":%s,\"value\":%s,\"shown\":%s,", k == 1 ? "" : ",", \
      quoted(id[k]), quoted(group[k]), quoted(title[k]), quoted(unit[k]), id[k] in value ? value[id[k]] : "null", \
      quoted(text[k])
    printf "\"healthy\":%s,\"verdict\":%s,\"action\":%s}", quoted(healthy[k]), quoted(word[k]), quoted(action[k])
  }
  print "]}"
}

BEGIN { split("none ok info warning critical", words, " ") }
FILENAME ~ /indicators[.]tsv$/ {
  if ($0 ~ /^#/) next
  rows++
  id[rows] = $1; group[rows] = $2; title[rows] = $3; unit[rows] = $4; healthy[rows] = $5; action[rows] = $6
  next
}
/^indicator_value[{]/ { value[label("indicator")] = number() }
/^indicator_verdict[{]/ { verdict[label("indicator")] = number(); judged++ }
/^build_info[{]/ && label("proc") ~ /^api/ { version = label("version") }
/^[^#]/ && !/^[^{ ]*_bucket[{]/ { figures[++count] = $0 }
END {
  worst = ready == 200 ? "ok" : "critical"
  for (k = 1; k <= rows; k++) {
    text[k] = as_shown(unit[k], id[k] in value ? value[id[k]] : "")
    word[k] = words[(id[k] in verdict ? verdict[id[k]] : 0) + 1]
    tally[word[k]]++
  }
  for (k = 3; k <= 5; k++) if (tally[words[k]] && worst != "critical") worst = words[k]
  if (!judged) worst = "critical"
  if (form == "json") json()
  else {
    table()
    printf "\n"
    if (!judged) print "Nothing has been judged yet: it is, every five seconds, from the start on. See the api log."
    if (form == "full") { for (k = 1; k <= count; k++) print figures[k]; printf "\n" }
    printf "%s: %d ok, %d info, %d warning, %d critical, %d not judged, ", worst, tally["ok"], tally["info"], \
      tally["warning"], tally["critical"], tally["none"]
  }
  exit worst == "critical"
}
' "$ROOT/monitoring/indicators.tsv" "$WORK/body" || verdict=1
[ "$form" = json ] || printf '%d s\n' "$(seconds)"
exit "${verdict:-0}"
