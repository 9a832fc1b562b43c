#!/usr/bin/env bash
# The quickstart's loop with one generator, with three, with every daemon killed in every iteration, and
# with another seed: equal digests where they must be equal, digests that can be computed again from
# outside, an iteration that starts at ln 2, a model that got better. TAP on standard output.
set -uo pipefail
root=$1
build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=0

# check TEXT COMMAND…
check() {
  local text=$1
  shift
  number=$((number + 1))
  if "$@" >"$work/said" 2>&1; then
    echo "ok $number - $text"
  else
    echo "not ok $number - $text"
    sed 's/^/# /' "$work/said" | tail -n 30
  fi
}

quickstart() {
  python3 "$root/deploy/quickstart.d/main.py" --build "$build" --fast --quiet --out "$work/$1" \
    --iterations 2 "${@:2}"
}
digests() {
  jq -c '[.iterations[] | [.checkpoint_sha256, .pairs_sha256]]' "$work/$1/summary.json"
}
same() {
  [ "$(digests "$1")" = "$(digests "$2")" ] || { digests "$1"; digests "$2"; return 1; }
}
differ() {
  ! same "$1" "$2" >/dev/null
}
# Each of three generators makes a fair share of every iteration's new pairs.
shares() {
  jq -e '[.iterations[].pairs_by_generator | (add) as $all | [.[]] |
    length == 3 and (min / $all >= 0.2)] | all' "$work/$1/summary.json"
}
starts_at_ln_2() {
  jq -e '[.iterations[] | ((.loss_first_step - 0.693147) | fabs < 0.001)
    and .margin_abs_max_first_step < 0.001] | all' "$work/$1/summary.json"
}
better() {
  jq -e '(.iterations[-1].exact_match - .base.exact_match) > 0.08
    and (.iterations[-1].sampled_exact_match - .base.sampled_exact_match) > 0.05' \
    "$work/$1/summary.json"
}
# The exported files give the checkpoint's digest with nothing but coreutils.
exported_digest() {
  local dir=$work/$1/checkpoint file digest
  digest=$(cd "$dir" && for file in *; do
    [ "$file" = provenance.json ] ||
      echo "$(sha256sum <"$file" | cut -d' ' -f1) $(stat -c %s "$file") $file"
  done | LC_ALL=C sort | sha256sum | cut -d' ' -f1)
  jq -e --arg digest "$digest" '[.iterations[].checkpoint_sha256] | index($digest)' \
    "$work/$1/summary.json"
}

echo "1..11"
check "one generator" quickstart one --generators 1
check "three generators" quickstart three --generators 3
check "every daemon killed in every iteration" quickstart killed --kill
check "another seed" quickstart other --seed 2
check "one and three generators: equal digests" same one three
check "killed and calm: equal digests" same one killed
check "another seed: other digests" differ one other
check "three generators share the work" shares three
check "every iteration starts at ln 2" starts_at_ln_2 one
check "self-play made the model better" better one
check "the exported files have the checkpoint's digest" exported_digest one
