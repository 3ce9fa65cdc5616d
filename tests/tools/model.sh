#!/bin/bash
# Check the model of the promise, tests/tools/model.pml, with spin; then break it in every way that it
# names, and see that spin finds each of these out.
#
#     model.sh DIR     builds in DIR; prints a line for each check, and fails if one fails
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
model=$PWD/tests/tools/model.pml
mkdir -p "$1" && cd "$1" || exit 1

# run NAME C-OPTIONS PAN-OPTIONS [SPIN-OPTIONS]: build and run the checker in a directory of its own.
run()
{
    # shellcheck disable=SC2086 # the checker's options are words, or none
    if ! mkdir -p "$1" || ! (cd "$1" && rm -f pan* ./*.trail &&
        spin -a "${@:4}" "$model" >spin.out 2>&1 &&
        gcc -O1 "$2" -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c >gcc.out 2>&1 &&
        ./pan -m100000 $3 >pan.out); then
        cat "$1"/*.out
        echo "model: $1 could not be checked"
        return 1
    fi
}

states()
{
    sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$1/pan.out"
}

# Exhausted without an error: not merely stopped.
holds()
{
    run "$1" "$3" "$4" || return 1
    if grep -q 'errors: 0$' "$1/pan.out" && ! grep -qE 'search depth too small|MEMLIM|interrupted' "$1/pan.out"; then
        echo "model: $2: holds in all $(states "$1") states"
    else
        cat "$1/pan.out"
        (cd "$1" && spin -k model.pml.trail -t -p "$model" | tail -n 150)
        echo "model: $2: DOES NOT HOLD"
        return 1
    fi
}

breaks()
{
    run "$1" -DSAFETY '' "-D$1" || return 1
    if grep -q 'assertion violated' "$1/pan.out"; then
        echo "model: $1 is found out: $(sed -n 's/^pan:1: assertion violated *\(.*\) (at.*/\1/p' "$1/pan.out") is violated"
    else
        cat "$1/pan.out"
        echo "model: $1 breaks nothing, so the model proves nothing about it"
        return 1
    fi
}

result=0
holds promise 'the promise, and no deadlock' -DSAFETY '' || result=1
holds ending 'an end comes unless the killing never ends' -DNP -l || result=1
mutations=$(sed -n 's/^ \*     \([A-Z_]*\)  .*/\1/p' "$model")
[[ -n $mutations ]] || result=1
for mutation in $mutations; do
    breaks "$mutation" || result=1
done
exit "$result"
