#!/bin/bash
# Run suites with memcheck: the unit suites themselves, and under the system suites the servers and
# commands that they start. What is found fails, and so does a descriptor that is open at the end
# and should not be. A test that means nothing so leaves itself out (memcheck.h); they are counted.
#
#     valgrind.sh DIR SUITE[:CASE]...   with the environment that the Makefile gives the suites,
#                                       which are in DIR
set -euo pipefail
suites=$1
shift

# libc, made to free what it holds at the end, forgets `environ`, which is the server's: that would
# look like a leak. A forked child that is ended by a signal handler has nothing to free.
memcheck=(valgrind --quiet --vgdb=no --run-libc-freeres=no --leak-check=full --track-fds=yes
    --show-leak-kinds=definite --errors-for-leak-kinds=definite --child-silent-after-fork=no)

# Also for a server that has dropped root.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/bin" "$scratch/logs"
chmod 0711 "$scratch"
chmod 1777 "$scratch/logs"

# wrap PROGRAM: the same name in bin, which runs it with memcheck. The log is named after its
# process; what that forks writes there too.
wrap()
{
    printf '#!/bin/sh\nexec %s --log-file=%s.$$ %s "$@"\n' "${memcheck[*]}" \
        "$scratch/logs/$(basename "$1")" "$1" >"$scratch/bin/$(basename "$1")"
    chmod 0755 "$scratch/bin/$(basename "$1")"
}

wrap "$HANGUPD"
for example in "$EXAMPLES"/*; do
    wrap "$example"
done

# A system suite has all of the harness, to start servers with; a unit suite has parts of it.
is_unit()
{
    ! grep -q '^#include "harness.h"' "$TESTS/suites/$1.c"
}

# run_suite WHAT: SUITE or SUITE:CASE. In a unit suite each test, a forked child, has its own log.
run_suite()
{
    local suite=${1%%:*}
    local environment=("MEMCHECK=$HANGUPD")
    [[ $1 != *:* ]] || environment+=("CK_RUN_CASE=${1#*:}")
    if is_unit "$suite"; then
        env "${environment[@]}" CK_TIMEOUT_MULTIPLIER=10 "${memcheck[@]}" \
            --log-file="$scratch/logs/$suite.%p" "$suites/$suite"
    else
        env "${environment[@]}" CK_TIMEOUT_MULTIPLIER=5 HANGUPD="$scratch/bin/hangupd" \
            EXAMPLES="$scratch/bin" "$suites/$suite"
    fi
}

failed=0
left_out=0
for what; do
    begin=$SECONDS
    run_suite "$what" 2>&1 | tee "$scratch/output" || failed=1
    ! grep -q 'Checks: 0,' "$scratch/output" || failed=1 # there is no such case
    echo "valgrind: $what: $((SECONDS - begin)) s"
    left_out=$((left_out + $(grep -c '^LEFT OUT ' "$scratch/output" || true)))
done

# findings LOG: what memcheck said there that must not be, 1 if there is something.
#
# All that has a stack counts, of children too, but for two things, which are asked of the process
# itself alone: memory that is lost (its children's dies with them), and descriptors (a request's
# child ends by _exit, with what it has). An open descriptor is told with the stack that made it:
#   - a server keeps what it opened at its start, and numbers for connections, which are made again
#     when one comes back; a command keeps its log and its state directory;
#   - a start that was refused for a line in a file of routes ends with that file open;
#   - a test, in a unit suite, keeps what it made itself, and what is handed out to be kept: the
#     ledger, its directory, STATE. Its helpers (`start`) are killed in the middle of things.
findings()
{
    awk -v pid="${1##*.}" -v unit="$([[ $1 == */check_* ]] && echo 1 || echo 0)" '
        { p = $1; gsub(/=/, "", p) }
        index($0, "==" p "==") != 1 || / FILE DESCRIPTORS: / {
            if (/the .impossible. happened/) found($0)
            next
        }
        NF > 1 { text[p] = text[p] $0 "\n"; next }
        { judge(p, text[p]); text[p] = "" }
        function judge(p, block) {
            if (block ~ /^==[0-9]+== Open [^\n]*(file descriptor|socket) [0-9]+:/) {
                if (p == pid && block !~ /<inherited from parent>/)
                    descriptor(block)
            } else if (block ~ /are (definitely|indirectly) lost in/) {
                if (p == pid)
                    found(block)
            } else if (block ~ /   at 0x/) {
                found(block)
            }
        }
        function descriptor(block) {
            if (unit) {
                if (block ~ /\((server|handler|cleanup)\.c:|\([a-z_]+\.h:/ &&
                    !made_by(block, "start") &&
                    !made_by(block, "ledger_make|slot_open|slot_open_program|cleanup_server_open|" \
                                    "cleanup_state_open"))
                    found(block)
            } else if (made_by(block, "add_routes_of")) {
                refused = refused block
            } else if (!made_by(block, "open_all|open_standard_descriptors|loan_return|log_open|" \
                                       "open_log|recover_open")) {
                found(block)
            }
            served = served || made_by(block, "open_events")
        }
        function made_by(block, names) { return block ~ ("   by [^\n]*: (" names ") \\(") }
        function found(block) { print block; bad = 1 }
        END {
            for (p in text)
                judge(p, text[p])
            if (served && refused != "")
                found(refused)
            exit bad
        }' "$1"
}

shopt -s nullglob
count=0
for log in "$scratch"/logs/*; do
    count=$((count + 1))
    if ! findings "$log" >"$scratch/findings"; then
        echo "== ${log##*/}"
        head -n 200 "$scratch/findings"
        failed=1
    fi
done
((count > 0)) || failed=1 # nothing was looked at
echo "valgrind: $count processes, and what they forked: $( ((failed)) && echo FAILED || echo clean);" \
    "$left_out tests were left out"
exit "$failed"
