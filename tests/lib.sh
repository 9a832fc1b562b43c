# Shell functions of tests/run: each suite's output goes to a log; its counts are added up.
# shellcheck shell=bash disable=SC2154  # logs is set by the script that reads this file
passed=0
failed=0
failures=()

# count NAME OK BAD SECONDS
count() {
  passed=$((passed + $2))
  failed=$((failed + $3))
  [ "$3" -eq 0 ] || failures+=("$1")
  printf '%-14s %5d passed %5d failed %6d s\n' "$1" "$2" "$3" "$4"
}

# suite NAME COMMAND…: one test, which passes when the command does.
suite() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$logs/$name.log" 2>&1; then
    count "$name" 1 0 $((SECONDS - start))
  else
    tail -n 40 "$logs/$name.log"
    count "$name" 0 1 $((SECONDS - start))
  fi
}

# configure_and_build DIR COMPILER MESON-OPTIONS…
configure_and_build() {
  local dir=$1 compiler=$2
  shift 2
  if [ ! -f "$dir/build.ninja" ]; then
    CC=$compiler CC_LD='' meson setup "$dir" "$@" || return 1
  fi
  ninja -C "$dir" -j "$(nproc)"
}

# meson_suite DIR SUITE [NAME]: every TAP line of every test program of the suite is one test; a
# program that dies without one counts as one failure.
meson_suite() {
  local dir=$1 which=$2 name=${3:-$2} start=$SECONDS status=0
  meson test -C "$dir" --no-rebuild --suite "$which" --num-processes "$(nproc)" \
    --timeout-multiplier 6 --print-errorlogs --logbase "$name" >"$logs/$name.log" 2>&1 || status=$?
  local ok bad
  read -r ok bad < <(python3 - "$dir/meson-logs/$name.json" <<'EOF'
import json
import re
import sys

ok = bad = 0
try:
    lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
except OSError:
    lines = []
for line in lines:
    test = json.loads(line)
    out = test.get("stdout") or ""
    good = len(re.findall(r"(?m)^ok ", out))
    wrong = len(re.findall(r"(?m)^not ok ", out))
    if test["result"] not in ("OK", "SKIP", "EXPECTEDFAIL") and not wrong:
        wrong = 1
    if not good and not wrong and test["result"] == "OK":
        good = 1
    ok, bad = ok + good, bad + wrong
if ok + bad == 0:
    bad = 1
print(ok, bad)
EOF
  )
  if [ "$bad" -ne 0 ] || [ "$status" -ne 0 ]; then
    [ "$bad" -ne 0 ] || bad=1
    grep -aE '^not ok|FAIL|TIMEOUT|ERROR|Sanitizer|Assertion' "$logs/$name.log" | head -n 60
  fi
  count "$name" "$ok" "$bad" $((SECONDS - start))
}

# no_tsan_reports DIR: TSan leaves a file for every process, daemons included, that it found fault with.
no_tsan_reports() {
  local report found=0
  for report in "$1"/tsan-report.*; do
    [ -f "$report" ] || continue
    head -n 60 "$report"
    found=1
  done
  return "$found"
}

summary() {
  echo
  if [ ${#failures[@]} -gt 0 ]; then
    echo "failed suites: ${failures[*]} (logs: $logs)"
  fi
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}
