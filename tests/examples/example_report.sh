#!/bin/sh
# A report writer: one file, which is there only while somebody waits for it, or has had the answer
# that names it. Its name holds the request's id, so that no two requests mean the same file.
# Wants: REPORTS, a directory, by --pass-env or env=; ?name=NAME&lines=N.
set -eu

parameter()
{
    printf '%s\n' "$QUERY_STRING" | tr '&' '\n' | sed -n "s/^$1=//p" | head -n 1
}

name=$(parameter name)
lines=$(parameter lines)
case $name in
'' | *[!a-z0-9-]*)
    printf 'Status: 400 Bad Request\nContent-Type: text/plain\n\nname: a-z, 0-9 and -\n'
    exit 0
    ;;
esac

file=$REPORTS/$name-$REQUEST_ID.csv
"$HANGUPD" undo unlink "$file" # recorded before it is made
echo "writing $file" >&2       # in the server's log
line=0
while [ "$line" -lt "${lines:-10}" ]; do
    line=$((line + 1))
    echo "$line,$((line * line))" >>"$file"
    sleep 0.1
done
printf 'Content-Type: text/plain\n\n%s\n' "$file"
