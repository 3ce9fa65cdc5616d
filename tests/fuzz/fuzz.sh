#!/bin/bash
# Run fuzz targets, two at a time, and say of each what came of it.
#
#     fuzz.sh SECONDS BUILD TARGET...   BUILD/fuzzers/TARGET, from tests/fuzz/corpus/, for SECONDS each
#
# What libFuzzer says goes to BUILD/TARGET.log, inputs that reach new code to BUILD/grown/TARGET for
# the next run, and one that a target does not survive to BUILD/found/. Fails if there is one.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

if (($# > 3)); then
    printf '%s\n' "${@:3}" | xargs -P 2 -I TARGET tests/fuzz/fuzz.sh "$1" "$2" TARGET
    exit
fi

seconds=$1 build=$2 target=$3
[[ $build == /* ]] || build=$PWD/$build # a target may work in another directory
name=${target#fuzz_} log=$build/$target.log
options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1
    -artifact_prefix="$build/found/$target-")
[[ -n ${FUZZ_SEED-} ]] && options+=(-seed="$FUZZ_SEED") # the same inputs again
[[ -e tests/fuzz/corpus/$name.dict ]] && options+=(-dict="tests/fuzz/corpus/$name.dict")
mkdir -p "$build/grown/$target" "$build/found" || exit 1
# In memory where that can be had: fuzz_ledger makes and removes files all the time.
scratch=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

ASAN_OPTIONS=abort_on_error=1:detect_leaks=0 UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1 \
    TMPDIR=$scratch "$build/fuzzers/$target" "${options[@]}" "$build/grown/$target" \
    "tests/fuzz/corpus/$name" >"$log" 2>&1 </dev/null
result=$?
inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
seeds=$(find "tests/fuzz/corpus/$name" -type f | wc -l)
if ((result == 0)); then
    echo "$target: ${inputs:-?} inputs in $seconds s, from $seeds seeds: nothing found"
    exit 0
fi
grep -v '^#[0-9]*[[:space:]]' "$log" | tail -n 60
echo "$target: FAILED after ${inputs:-?} inputs; all it said is in $log"
exit 1
