#!/bin/sh
# The request that fault_syscalls disturbs, as a program: see example_sweep.c. Each thing is
# recorded before it is made. Wants: SWEEP, the directory, by --pass-env or env=.
#
#     /program          in world and remote
#     /program?before   in before and before/remote
#     /idle             nothing
set -e
cd "$SWEEP"
for left in "$TMPDIR"/*; do
    [ ! -e "$left" ] # the request before has left nothing to this one
done
if [ "$SCRIPT_NAME" = /idle ]; then
    printf 'Content-Type: text/plain\n\nall of it is there\n'
    exit
fi
world=${QUERY_STRING:-world} remote=remote/$REQUEST_ID
[ "$world" = world ] || remote=$world/remote/it
echo note >"$TMPDIR/note"
echo "unlink $SWEEP/$world/new" >&3
echo made >"$world/new"
echo "unlink $SWEEP/$world/over" >&3
echo made >"$world/over"
echo "rmtree $SWEEP/$world/dir" >&3
mkdir "$world/dir"
echo made >"$world/dir/inside"
echo "run rm -f '$SWEEP/$remote'" >&3
echo made >"$remote"
setsid sleep 1000 & # a daemon that holds the answer's pipe open
printf 'Content-Type: text/plain\n\nall of it '
printf 'is there\n'
