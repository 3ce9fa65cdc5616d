#!/usr/bin/env python3
"""Check how the house is built: plans, sizes, rooms, the public API, and what nobody uses.

    lint_house.py            (at the top of the tree; needs universal-ctags, gcc, clang, nm)

Prints a line for each thing that is wrong, and fails, or prints one line."""
import glob, os, re, subprocess, sys, tempfile

# The most lines that each may have. A file that nears its number wants a room, not a larger number.
CEILINGS = {
    "server.c": 3000,
    "handler.c": 2600,
    "cleanup.c": 2300,
    "README.md": 350,
}
ROOM_LINES = 1000
FUNCTION_LINES = 60
# All of *.c and include/. A ratchet: a commit that adds what is worth it raises it, and says why.
PRODUCT_LINES = 18775
# Of the lines of each .c file, those of comments; a comment beside code counts half.
COMMENT_SHARE = 0.12

# Members and enumerators that are named nowhere else, and why they are there.
UNUSED_BUT_NEEDED = {}

WARNINGS = "-Wall -Wextra -Wpedantic -Wno-overlength-strings -Wshadow -Wstrict-prototypes " \
    "-Wconversion -Werror".split()
LANGUAGE = ["-std=gnu17", "-D_GNU_SOURCE", "-Iinclude"]

FILES = sorted(glob.glob("*.c"))
ROOMS = sorted(glob.glob("include/*.h"))
PUBLIC = sorted(glob.glob("include/hangupd/*.h"))
PRODUCT = FILES + ROOMS + PUBLIC
texts = {path: open(path, encoding="utf-8").read() for path in PRODUCT}
wrong = []


def check(holds, message):
    if not holds:
        wrong.append(message)


def without_comments(text, strings=True):
    """TEXT with comments blank, and strings too unless STRINGS; every line stays where it is."""
    def blank(match):
        token = match.group()
        if token.startswith("/"):
            return re.sub(r"[^\n]", " ", token)
        return token if strings else '""'
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.S)


code = {path: without_comments(text) for path, text in texts.items()}


def tags(kinds, paths):
    """(name, path, first line, last line or None, kind, signature line) of what ctags sees."""
    out = subprocess.run(["ctags", "-f", "-", "--languages=C", "--langmap=C:.c.h",
                          "--kinds-C=" + kinds, "--fields=neKS", "-I", "ASYNC_SAFE", "-n"] + paths,
                         check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        name, path, _, *fields = line.split("\t")
        field = dict(f.split(":", 1) for f in fields if ":" in f)
        yield name, path, int(field["line"]), int(field.get("end", 0)), fields[0]


def plan_of(text):
    """The sections that the opening comment promises, or None."""
    opening = re.match(r"/\*.*?\*/", text, re.S)
    plan = opening and re.search(r"^ \* Plan:\n((?: \* .*\n)+) \*$", opening.group(), re.M)
    return plan and re.findall(r"^ \*   (\S.*?) - ", plan.group(1), re.M)


def check_plans():
    for path in FILES:
        plan = plan_of(texts[path])
        sections = re.findall(r"^/\* ---- (.*?) -+ \*/$", texts[path], re.M)
        check(plan, f"{path}: the opening has no plan (` * Plan:`, a line for each section)")
        if plan and plan != sections:
            at = next((i for i, (a, b) in enumerate(zip(plan, sections)) if a != b),
                      min(len(plan), len(sections)))
            there = lambda names: f'"{names[at]}"' if at < len(names) else "nothing"
            wrong.append(f"{path}: section {at + 1} is {there(plan)} in the plan and "
                         f"{there(sections)} in the file")


def check_sizes():
    def lines(path):
        return open(path, encoding="utf-8").read().count("\n")
    for path, most in list(CEILINGS.items()) + [(path, ROOM_LINES) for path in ROOMS]:
        check(lines(path) <= most, f"{path} has {lines(path)} lines; the most is {most}")
    total = sum(map(lines, PRODUCT))
    check(total <= PRODUCT_LINES, f"the product has {total} lines; the most is {PRODUCT_LINES}")
    for path in FILES:
        pairs = list(zip(texts[path].splitlines(), code[path].splitlines()))
        comments = sum((1 if not bare.strip() else 0.5) for line, bare in pairs if line != bare)
        check(comments >= COMMENT_SHARE * len(pairs),
              f"{path}: {comments / len(pairs):.1%} of its lines are comments; the least is "
              f"{COMMENT_SHARE:.0%}")
    for name, path, first, last, _ in tags("f", PRODUCT):
        check(last - first < FUNCTION_LINES,
              f"{path}:{first}: {name} has {last - first + 1} lines; the most is {FUNCTION_LINES}")


def compiles_alone(room, compiler, alone, scratch):
    source, flags = os.path.join(scratch, "room.c"), WARNINGS
    with open(source, "w") as f:
        f.write(f'#include "{room[len("include/"):]}"\n')
    if alone:  # what is there for one .c file is not used without it
        flags = flags + ["-Wno-unused-function"]
    ran = subprocess.run([compiler, *LANGUAGE, *flags, "-O0", "-c", "-o", os.devnull, source],
                         capture_output=True, text=True)
    said = re.search(r"^.*error:.*$", ran.stderr, re.M)
    check(ran.returncode == 0, f"{room} does not compile alone with {compiler}: "
          f"{said.group() if said else ran.stderr[:200]}")


def check_pure(room, scratch):
    """What a pure room makes in an object file is constant, and nobody else can see it."""
    source, binary = os.path.join(scratch, "room.c"), os.path.join(scratch, "room.o")
    with open(source, "w") as f:
        f.write(f'#include "{room[len("include/"):]}"\n')
    made = subprocess.run(["gcc", *LANGUAGE, "-w", "-O0", "-fno-pie", "-fkeep-inline-functions",
                           "-fkeep-static-functions", "-c", "-o", binary, source],
                          capture_output=True)
    if made.returncode != 0:
        return  # told already
    symbols = subprocess.run(["nm", binary], check=True, capture_output=True, text=True).stdout
    own = {n for n, p, *_ in tags("fv", [room])}
    for kind, name in re.findall(r"^\S+ (\w) (\S+)$", symbols, re.M):
        if kind in "TDBCVW" and name in own:
            wrong.append(f"{room} is pure, and {name} is not static")
        # A static variable of a function is NAME.NUMBER.
        if kind in "bd" and re.search(rf"\b{re.escape(name.split('.')[0])}\b", code[room]):
            wrong.append(f"{room} is pure, and {name.split('.')[0]} is a variable that changes")
    for name, _, first, *_ in tags("p", [room]):
        line = code[room].splitlines()[first - 1]
        check("static" in line, f"{room} is pure, and declares {name}, which is not in it")


def check_kinds():
    includes = {path: re.findall(r'^#include ["<]([^">]+)[">]', code[path], re.M)
                for path in PRODUCT}
    def includers(room, seen):  # the .c files that get ROOM, through other rooms too
        for path in PRODUCT:
            if room[len("include/"):] in includes[path] and path not in seen:
                seen.add(path)
                if path.endswith(".h"):
                    includers(path, seen)
        return {path for path in seen if path.endswith(".c")}
    owners = {room: re.findall(r"^ \* Kind: included by (\w+\.c) alone\.", texts[room], re.M)
              for room in ROOMS}
    defined = {}  # a room for one .c file is a part of that
    for name, path, *_ in tags("fv", FILES + ROOMS):
        defined.setdefault(name, set()).update(owners.get(path, [path]))
    with tempfile.TemporaryDirectory() as scratch:
        for room in ROOMS:
            kinds = re.findall(r"^ \* Kind: (pure\.|declared here, defined in (\w+\.c)\b|"
                               r"included by (\w+\.c) alone\.)", texts[room], re.M)
            check(len(kinds) == 1, f"{room} must say its kind once: `Kind: pure.`, `Kind: declared "
                  f"here, defined in X.c.` or `Kind: included by X.c alone.`")
            kind, definer, owner = kinds[0] if len(kinds) == 1 else ("", "", "")
            for compiler in "gcc", "clang":
                compiles_alone(room, compiler, owner, scratch)
            if kind == "pure.":
                check_pure(room, scratch)
            if owner:
                others = includers(room, set()) - {owner}
                check(not others, f"{room} is for {owner} alone, and {', '.join(others)} has it")
            for name, _, first, *_ in tags("px", [room]) if definer else ():
                local = re.search(r"\bstatic\b", code[room].splitlines()[first - 1])
                check(local or definer in defined.get(name, ()),
                      f"{room}: {name} is not defined in {definer}")


def check_public():
    for path in PUBLIC:
        for included in re.findall(r'^#include ["<]([^">]+)[">]', code[path], re.M):
            check(not os.path.exists(f"include/{included}") or included.startswith("hangupd/"),
                  f"{path} includes {included}, which is not installed")
        check('extern "C"' in texts[path], f'{path} has no extern "C"')


def check_unused():
    bare = "\n".join(without_comments(text, strings=False) for text in texts.values())
    words = {}
    for word in re.findall(r"\b[A-Za-z_]\w*", bare):
        words[word] = words.get(word, 0) + 1
    found = {}
    for name, path, line, _, kind in tags("em", FILES + ROOMS):
        if not name.startswith("__anon"):
            found.setdefault(name, []).append((path, line, kind))
    for name, places in found.items():
        if words.get(name, 0) <= len(places) and name not in UNUSED_BUT_NEEDED:
            path, line, kind = places[0]
            wrong.append(f"{path}:{line}: the {kind} {name} is named nowhere else")
    for name in UNUSED_BUT_NEEDED:
        check(name in found, f"lint_house.py: {name} need not be an exception, it is not there")


check_plans()
check_sizes()
check_kinds()
check_public()
check_unused()
if wrong:
    print(*wrong, sep="\n", file=sys.stderr)
    sys.exit(f"lint_house.py: {len(wrong)} things are not as the house wants them")
print(f"the house: {len(FILES)} files, {len(ROOMS)} rooms, {len(PUBLIC)} public headers")
