#!/bin/sh
# A storm's program (see example_storm.c): makes a directory and something in the cloud, starts two
# daemons that nobody can ask to leave and that hold its pipes, uses its private directory, answers.
set -eu

tag=0 ms=0
IFS='&'
for word in $QUERY_STRING; do
    case $word in
    tag=*) tag=${word#tag=} ;;
    ms=*) ms=${word#ms=} ;;
    esac
done
IFS=' '

echo "rmtree $WORLD/tree/$tag" >&3
mkdir "$WORLD/tree/$tag"
echo "$tag" >"$WORLD/tree/$tag/file"
echo "run rm -f '$WORLD/cloud/$tag'" >&3
echo "$tag" >"$WORLD/cloud/$tag"
echo "$tag" >"$TMPDIR/notes"

(trap '' TERM && exec sleep 1000) &
(trap '' TERM && setsid sleep 1000 &) &

printf 'Content-Type: text/plain\n\nmade\n'
sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
