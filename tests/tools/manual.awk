# Make the page hangupd(8) from `hangupd --help`, so that the two never differ.
#
# A line at the margin that ends in ':' is a heading; other lines at the margin are text. Indented,
# "--option   what it does" is an entry, which deeper lines go on; anything else stands as it is.
# What --help has no room for, exit status and files, stands at the end here.

function escaped(s)
{
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    sub(/^[.']/, "\\\\\\&&", s)
    return s
}

# End the block of lines that stand as they are, if there is one.
function fill()
{
    if (verbatim)
        print ".fi\n.RE"
    verbatim = 0
}

BEGIN {
    print ".TH HANGUPD 8"
    print ".SH NAME"
    print "hangupd \\- an HTTP server that undoes a request when its caller hangs up"
}

/^[ \t]*$/ {
    fill()
    entry = 0
    print ".PP"
    next
}

{
    match($0, /^ */)
    indent = RLENGTH
    line = substr($0, indent + 1)
}

indent == 0 && tolower(line) ~ /^usage: / {
    print ".SH SYNOPSIS\n.nf\n" escaped(substr(line, 8)) "\n.fi\n.SH DESCRIPTION"
    next
}

indent == 0 && line ~ /:$/ {
    fill()
    entry = 0
    print ".SH " toupper(escaped(substr(line, 1, length(line) - 1)))
    next
}

indent == 0 {
    fill()
    entry = 0
    if (line ~ /^SIGTERM /)
        print ".SH SIGNALS"
    print escaped(line)
    next
}

line ~ /^-/ {
    fill()
    entry = indent
    gap = match(line, /   */)
    print ".TP\n.B " escaped(gap ? substr(line, 1, gap - 1) : line)
    if (gap)
        print escaped(substr(line, gap + RLENGTH))
    next
}

entry && indent > entry {
    print escaped(line)
    next
}

{
    if (!verbatim)
        print ".PP\n.RS 4\n.nf"
    verbatim = 1
    entry = 0
    printf "%*s%s\n", indent - 2, "", escaped(line)
}

END {
    fill()
    print ".SH EXIT STATUS"
    print ".TP\n.B 0\nstopped by a signal, with every request ended; or nothing left to serve"
    print ".TP\n.B 1\nit could not serve; standard error says why"
    print ".TP\n.B 2\nthe command line was wrong; standard error says what would be right"
    print ".SH FILES"
    print ".TP\n.I STATE/SERVER/ID\nthe ledger of a request in flight: what it made and how to undo it"
    print ".TP\n.I STATE/SERVER/ID.p\nwhat its program recorded"
    print ".TP\n.I STATE/SERVER/lock\nheld for as long as that server lives"
    print ".TP\n.I STATE/SERVER/scoreboard\nwhat the server is doing, for hangupd status"
    print ".TP\n.I STATE/failed/\nledgers of what could not be undone, for hangupd recover"
    print ".PP\nSTATE is what \\-\\-state says. It must be a directory of mode 0700 that the user owns."
}
