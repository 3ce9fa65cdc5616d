#!/bin/bash
# Serve the status page through hangupd itself, as the README says, and read it in Chromium: are
# the requests in flight, its own among them, being undone and parked in its tables, is everything
# escaped, and has every table what a screen reader needs?
#
#     status_page.sh DIR    leaves light.png, dark.png and phone.png in DIR, for people to look at
#
# HANGUPD is the binary. Prints one line; exits with 1 if the page is wrong.
set -euo pipefail

out=$(realpath -m "$1")
scratch=$(mktemp -d)
server=
callers=()

finish()
{
    for pid in "${callers[@]}" $server; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$scratch"
}
trap finish EXIT

fail()
{
    echo "status_page.sh: $*" >&2
    tail -n 30 "$scratch/log" >&2 || true
    exit 1
}

# until_true WHAT COMMAND...: it must become true within 60 s.
until_true()
{
    local what=$1 until=$((SECONDS + 60))
    shift
    until "$@"; do
        ((SECONDS < until)) || fail "waited for $what"
        sleep 0.1
    done
}

# program NAME: an executable of that name, read from standard input.
program()
{
    { echo '#!/bin/sh' && cat; } >"$scratch/$1"
    chmod +x "$scratch/$1"
}

program status <<END
exec '$HANGUPD' status --html --watch 30s
END
program work <<'END'
echo "unlink $TMPDIR/result" >&3
sleep 60 & sleep 60
END
program patient <<END
echo "run until test -e '$scratch/go'; do sleep 0.1; done" >&3
sleep 60
END
program hopeless <<'END'
echo "run echo '<b>no such cloud</b>' && exit 7" >&3
sleep 60
END

"$HANGUPD" --listen 127.0.0.1:0 --state "$scratch/state" --undo-retries 0 --requests 8 \
    "/status=$scratch/status" "/work=$scratch/work" "/patient=$scratch/patient" \
    "/hopeless=$scratch/hopeless" >"$scratch/log" 2>&1 &
server=$!
until_true "the server" grep -q "listening on" "$scratch/log"
url=http://$(sed -n 's/.*listening on //p' "$scratch/log")

# state_is EXPRESSION: in Python, of the first server S and the whole D.
state_is()
{
    "$HANGUPD" status --state "$scratch/state" --json |
        python3 -c "import json, sys
d = json.load(sys.stdin); s = d['servers'][0]
sys.exit(not ($1))"
}

call()
{
    curl -s -o "$scratch/answer" "$url$1" &
    callers+=($!)
}

# The caller that came last hangs up.
hang_up()
{
    kill "${callers[-1]}"
    wait "${callers[-1]}" 2>/dev/null || true
    unset 'callers[-1]'
}

call "/hopeless"
until_true "its records" state_is "[r['records'] for r in s['requests'] if 'hopeless' in r['request']] == [2]"
hang_up
until_true "a parked undo" state_is "len(d['parked']) == 1"
call "/work?%3Cscript%3E&a='\"&b=1"
call "/work"
call "/patient"
until_true "their records" state_is "[r['records'] for r in s['requests']] == [2, 2, 2]"
hang_up
until_true "an undo" state_is "len(s['undoing']) == 1"
until_true "its helpers" state_is "sum(r['processes'] for r in s['requests']) == 8"

chromium=(chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars)

# browse NAME ARGUMENT...: Chromium with a profile of its own.
browse()
{
    local name=$1
    shift
    timeout 120 "${chromium[@]}" --user-data-dir="$scratch/profile-$name" "$@" "$url/status" \
        2>"$scratch/chromium-$name" || {
        cat "$scratch/chromium-$name" >&2
        fail "Chromium did not load the page ($name)"
    }
}

mkdir -p "$out"
browse dom --dump-dom >"$scratch/dom"
browse light --window-size=1280,1000 --screenshot="$out/light.png" >"$scratch/said"
browse dark --window-size=1280,1000 --blink-settings=preferredColorScheme=0 \
    --screenshot="$out/dark.png" >"$scratch/said"
browse phone --window-size=390,1800 --screenshot="$out/phone.png" >"$scratch/said"

python3 - "$scratch/dom" <<'END' || fail "the page is wrong"
import sys
from html.parser import HTMLParser

class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tables, self.words, self.cell, self.tags = {}, "", None, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "caption":
            self.cell = ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            assert tag == "td" or attributes.get("scope") in ("row", "col"), attributes
            self.cell = ""

    def handle_endtag(self, tag):
        if tag == "caption":
            self.rows = self.tables.setdefault(self.cell, [])
        elif tag in ("th", "td"):
            self.rows[-1].append(self.cell)
        else:
            return
        self.cell = None

    def handle_data(self, data):
        self.words += data
        if self.cell is not None:
            self.cell += data

page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
tags = [tag for tag, _ in page.tags]
assert "script" not in tags and "b" not in tags, "an element out of what a client sent"
assert tags.count("table") == len(page.tables) == 3, page.tables.keys()
assert dict(page.tags[0][1]).get("lang") == "en" and tags.count("main") == 1 and "title" in tags
assert any(a.get("http-equiv") == "refresh" and a["content"] == "30" for _, a in page.tags)
assert any(a.get("name") == "viewport" for _, a in page.tags)

flight = page.tables["Requests in flight"]
assert flight[0] == ["Id", "Age", "Client", "Phase", "Processes", "Records", "Request"], flight[0]
seen = {row[6]: row for row in flight[1:]}
own, work = seen["GET /status HTTP/1.1"], seen["GET /work HTTP/1.1"]
assert own[3] == "running" and int(own[4]) == 2, own
assert work[3:6] == ["running", "4", "2"], work
assert seen["GET /patient HTTP/1.1"][3:6:2] == ["undoing: hangup", "2"], seen
odd = [request for request in seen if "script" in request]
assert len(seen) == 4 and odd == ["GET /work?%3Cscript%3E&a='\"&b=1 HTTP/1.1"], seen
undoing = page.tables["Being undone"][1:]
assert [row[3] for row in undoing] == ["GET /patient HTTP/1.1"], undoing
parked = page.tables["Undo failed for good"][1:]
assert [row[3:] for row in parked] == [["GET /hopeless HTTP/1.1",
    "run echo '<b>no such cloud</b>' && exit 7"]], parked
assert "4 of 8 requests in flight" in page.words and "hangupd recover --state " in page.words
END

for name in light dark phone; do
    [ -s "$out/$name.png" ] || fail "no screenshot $name.png"
done
! cmp -s "$out/light.png" "$out/dark.png" || fail "the page is the same in light and dark"
touch "$scratch/go"
for pid in "${callers[@]}"; do
    kill "$pid"
done
until_true "the end of the undo" state_is "s['undoing'] == []"
kill "$server"
wait "$server" || fail "the server's exit status is $?"
server=
echo "status page: 3 tables, 4 requests in flight with its own; screenshots in $out"
