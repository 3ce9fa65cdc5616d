# Make the page hangupd(8) from hangupd.8.in and from the help texts of hangupd and its commands, so
# that the page and the program never differ.
#
#     awk -v hangupd=./hangupd -v examples_dir=DIR -f manual.awk hangupd.8.in >hangupd.8
#
# A line of the template that begins with @ stands for a part of `hangupd --help`:
#
#     @usage          its usage, and that of every command
#     @text           its text before the first heading
#     @options        all sections but those of commands and examples, each under its heading
#     @commands       the --help of every command, each under its name
#     @rest           the lines at the margin after the sections: signals
#     @state          the place of STATE, from --state
#     @examples       the section of examples
#
# and @examples_dir within a line for that directory. Everything else is roff and stands as it is.
#
# How a help text is read: a line at the margin that ends in ':' is a heading; other lines at the
# margin are text. Indented, "--option   what it does" is an entry, and so is "key=...", which
# deeper lines go on; anything else indented stands as it is.

function fail(why)
{
    print "manual.awk: " why >"/dev/stderr"
    failed = 1
    exit 1
}

function escaped(s)
{
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    sub(/^[.']/, "\\\\\\&&", s)
    return s
}

# ---- The help texts --------------------------------------------------------------------

# Read the help of COMMAND ("": hangupd's own): its usage, and its sections, of which the first is
# "text" and the one after a heading's that is at the margin again "rest".
function read_help(command,    line, section, pipe, n)
{
    section = "text"
    pipe = "'" hangupd "' " command " --help"
    for (n = 0; (pipe | getline line) > 0; n++) {
        if (n == 0) {
            usage[command] = substr(line, length("Usage: ") + 1)
            continue
        }
        if (line ~ /^[^ ].*:$/) {
            section = substr(line, 1, length(line) - 1)
            heading[command, ++headings[command]] = section
            continue
        }
        if (line ~ /^[^ ]/ && section != "text")
            section = "rest"
        help[command, section, ++lines[command, section]] = line
    }
    close(pipe)
    if (n == 0)
        fail(pipe " said nothing")
}

# The names of the commands stand in their section.
function read_commands(    i, line, words)
{
    for (i = 1; i <= lines["", "Commands"]; i++) {
        line = help["", "Commands", i]
        if (line ~ /^  hangupd [a-z]/) {
            split(line, words, " ")
            command[++commands] = words[2]
            read_help(words[2])
        }
    }
    if (commands == 0)
        fail("--help names no command")
}

# ---- As roff ----------------------------------------------------------------------------

# End the block of lines that stand as they are, if there is one.
function fill()
{
    if (verbatim) {
        print ".fi\n.RE"
        parted = 1
    }
    verbatim = 0
}

function print_line(line,    indent, gap)
{
    if (line ~ /^[ \t]*$/) {
        fill()
        entry = 0
        parted = 1
        return
    }
    match(line, /^ */)
    indent = RLENGTH
    line = substr(line, indent + 1)
    if (indent == 0) {
        fill()
        entry = 0
        if (parted)
            print ".PP"
        print escaped(line)
    } else if (line ~ /^(-|[a-z-]+=)/) {
        fill()
        entry = indent
        gap = match(line, /   */)
        print ".TP\n.B " escaped(gap ? substr(line, 1, gap - 1) : line)
        if (gap)
            print escaped(substr(line, gap + RLENGTH))
    } else if (entry && indent > entry) {
        print escaped(line)
    } else {
        if (!verbatim)
            print ".PP\n.RS 2\n.nf"
        verbatim = 1
        entry = 0
        print substr("                                ", 1, indent - 2) escaped(line)
    }
    parted = 0
}

# Rows of a table, "hangupd undo VERB   what it does", go without the words that match ROWS.
function print_section(command, section, rows,    i, line)
{
    if (lines[command, section] == 0)
        fail("the help of '" command "' has no " section)
    entry = 0
    parted = 0
    for (i = 1; i <= lines[command, section]; i++) {
        line = help[command, section, i]
        if (rows != "" && line ~ /[^ ]   +[^ ]/)
            sub(rows, "  ", line)
        print_line(line)
    }
    fill()
}

function print_usage(    i)
{
    print ".nf\n" escaped(usage[""])
    for (i = 1; i <= commands; i++)
        print escaped(usage[command[i]])
    print ".fi"
}

function print_options(    i, section)
{
    for (i = 1; i <= headings[""]; i++) {
        section = heading["", i]
        if (section == "Commands" || section == "Examples")
            continue
        print ".SS " escaped(section)
        print_section("", section)
    }
}

function print_commands(    i, k)
{
    for (i = 1; i <= commands; i++) {
        print ".SS hangupd " command[i]
        print_section(command[i], "text", "^  hangupd " command[i] " ")
        for (k = 1; k <= headings[command[i]]; k++) {
            print ".PP\n" heading[command[i], k] ":"
            print_section(command[i], heading[command[i], k])
        }
    }
}

function print_state(    k, i, line, inside)
{
    for (k = 1; k <= headings[""]; k++)
        for (i = 1; i <= lines["", heading["", k]]; i++) {
            line = help["", heading["", k], i]
            if (line !~ /^   /)
                inside = 0
            if (sub(/^  --state DIR +/, "", line)) {
                inside = 1
                print ".TP\n.I STATE"
            }
            if (inside) {
                sub(/^ +/, "", line)
                print escaped(line)
            }
        }
}

# ---- The page ---------------------------------------------------------------------------

BEGIN {
    if (hangupd == "" || examples_dir == "")
        fail("it needs -v hangupd=... -v examples_dir=...")
    read_help("")
    read_commands()
}

/^@/ {
    if ($1 == "@usage")
        print_usage()
    else if ($1 == "@text" || $1 == "@rest")
        print_section("", substr($1, 2))
    else if ($1 == "@options")
        print_options()
    else if ($1 == "@commands")
        print_commands()
    else if ($1 == "@state")
        print_state()
    else if ($1 == "@examples")
        print_section("", "Examples")
    else
        fail("unknown: " $0)
    next
}

{
    gsub(/@examples_dir/, escaped(examples_dir))
    print
}

END {
    exit failed
}
