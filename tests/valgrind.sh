#!/bin/bash
# Run suites with memcheck: the unit suites themselves, and under the system suites the servers that
# they start. What is found fails, and so does a descriptor that a server has not had since its
# start and still has at its end.
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

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/bin" "$scratch/logs"

# wrap PROGRAM: the same name in bin, which runs it with memcheck. The log is named after its
# process; what that forks writes there too.
wrap()
{
    printf '#!/bin/sh\nexec %s --log-file=%s.$$ %s "$@"\n' "${memcheck[*]}" \
        "$scratch/logs/$(basename "$1")" "$1" >"$scratch/bin/$(basename "$1")"
    chmod +x "$scratch/bin/$(basename "$1")"
}

wrap "$HANGUPD"
for example in "$EXAMPLES"/*; do
    wrap "$example"
done

failed=0
for what; do
    suite=$suites/${what%%:*}
    case=
    [[ $what != *:* ]] || case=${what#*:}
    echo "valgrind: ${what%%:*}${case:+, $case}"
    case $what in
    check_handler*)
        env CK_TIMEOUT_MULTIPLIER=10 ${case:+"CK_RUN_CASE=$case"} "${memcheck[@]}" \
            --log-file="$scratch/logs/$(basename "$suite").%p" "$suite" || failed=1
        ;;
    *)
        env CK_TIMEOUT_MULTIPLIER=5 ${case:+"CK_RUN_CASE=$case"} HANGUPD=$scratch/bin/hangupd \
            EXAMPLES=$scratch/bin "$suite" || failed=1
        ;;
    esac
done

# An open descriptor is told with the stack that made it. Numbers that are kept for connections are
# made at the start, and again when one comes back. Only the server itself is asked: a request's
# child ends by _exit, with what it has.
leaked()
{
    awk -v pid="${1##*.}" '
        index($0, "==" pid "==") != 1 { next }
        /Open file descriptor/ { flush(); open = 1; text = $0; ours = 0; next }
        open && NF > 1 { text = text "\n" $0 }
        open && /<inherited from parent>|by .*: (open_all|open_standard_descriptors|return_low_number) / { ours = 1 }
        open && NF <= 1 { flush() }
        function flush() { if (open && !ours) { print text; bad = 1 } open = 0 }
        END { flush(); exit bad }' "$1"
}

# Memory that is lost is asked for of the server alone, too: its children's dies with them.
lost()
{
    grep -qE "^==${1##*.}== .*(definitely|indirectly) lost in" "$1"
}

shopt -s nullglob
count=0
for log in "$scratch"/logs/*; do
    count=$((count + 1))
    if grep -qE 'Invalid|uninitialised|overlap|Mismatched|already closed' "$log" || lost "$log" ||
        ! leaked "$log"; then
        echo "== $log"
        cat "$log"
        failed=1
    fi
done
((count > 0)) || failed=1 # nothing was looked at
echo "valgrind: $count servers, and what they forked: $([ "$failed" = 0 ] && echo clean || echo FAILED)"
exit "$failed"
