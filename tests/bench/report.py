"""What was measured: as text, as results.md and as results.svg."""

import math
import os
import platform
import time


def number(value):
    """Three digits that count."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def table(head, rows, left=1):
    """A table in Markdown; the first LEFT columns are words."""
    rows = [[str(cell) for cell in row] for row in rows]
    width = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    line = ["-" * width[i] if i < left else "-" * (width[i] - 1) + ":" for i in range(len(head))]

    def laid_out(row):
        return "| " + " | ".join(cell.ljust(width[i]) if i < left else cell.rjust(width[i])
                                 for i, cell in enumerate(row)) + " |"
    return "\n".join(map(laid_out, [head, line] + rows))


def processor():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


class Report:
    def __init__(self, rounds, seconds, load):
        self.rounds, self.seconds, self.load = rounds, seconds, load
        self.rows, self.failures = [], []
        self.rates, self.hangups, self.sizes, self.counts = {}, {}, {}, {}
        self.sustained = []

    def add(self, what, value, target="", reached=None):
        verdict = "" if reached is None else "reached" if reached(value) else "NOT reached"
        self.rows.append((what, number(value), target, verdict))

    def fail(self, what, why):
        self.failures.append(f"{what}: not measured: {why}")

    def text(self):
        parts = [table(["measure", "value", "target", ""], self.rows)] if self.rows else []
        if self.rates:
            by_rate = sorted(self.rates.items(), key=lambda item: -item[1]["rate"])
            parts.append(table(["16 callers", "requests/s", "p50, ms", "p99, ms", "errors"],
                               [[name, number(r["rate"]), number(r["p50"]), number(r["p99"]),
                                 r["errors"]] for name, r in by_rate]))
        if self.sustained:
            parts.append(table(["a program, for long", "callers", "requests/s", "first 10 s",
                                "last 10 s", "best peer", "of it", "of tcpserver",
                               "of the floor", "the floor, of the best peer"],
                               [[row[0], row[1], *map(number, row[2:5]), row[5],
                                 *map(number, row[6:])] for row in self.sustained]))
        if self.sizes:
            parts.append(table(["beside", "requests/s", "p99, ms", "errors"],
                               [[{"alone": "nothing", "idle": "idle connections",
                                  "slow": "slow requests"}[name], number(r["rate"]),
                                 number(r["p99"]), r["errors"]] for name, r in self.sizes.items()]))
        if self.hangups:
            parts.append(table(["hangup until the file is gone, ms", "median", "p90", "p99", "max"],
                               [[name, *(number(sorted(v)[int(p * (len(v) - 1))])
                                         for p in (0.5, 0.9, 0.99, 1))]
                                for name, v in self.hangups.items()]))
        if self.counts:
            parts.append(table(["for a request", "system calls, parent", "child",
                                "page faults, parent", "child"],
                               [[name, *map(number, c)] for name, c in self.counts.items()]))
        return "\n\n".join(parts + self.failures)

    def write(self, directory):
        machine = f"{os.cpu_count()} processors ({processor()}), Linux {platform.release()}"
        (directory / "results.md").write_text(
            "# How fast hangupd is\n\n"
            f"Made by `make bench` on {time.strftime('%Y-%m-%d', time.gmtime())}: {machine}, load "
            f"before it {self.load:.2f}.\nEverything on loopback and on two processors, the callers "
            f"too; medians of {self.rounds} rounds in turns, {self.seconds} s each.\n\n"
            + self.text() + "\n")
        (directory / "results.svg").write_text(plot(self))


# ---- The plot --------------------------------------------------------------------------------

WIDTH, ROW, TOP, LEFT, RIGHT = 860, 24, 56, 220, 80
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #444 }
    .title { font-weight: 600; fill: #222 }
    .ours { fill: #2f7fd1 } .floor { fill: #8a8f98 } .peer { fill: #c3a26b }
    .line { fill: none; stroke-width: 2 } .axis { stroke: #9995; stroke-width: 1 }
    .l0 { stroke: #2f7fd1 } .l1 { stroke: #c3a26b }
    .l2 { stroke: #2f7fd1; stroke-dasharray: 5 4 } .l3 { stroke: #c3a26b; stroke-dasharray: 5 4 }
    @media (prefers-color-scheme: dark) {
        text { fill: #bbb } .title { fill: #eee }
    }"""


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def text_at(x, y, text, anchor="start", kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escaped(text)}</text>'


def bars(rates, y):
    """Requests a second, a bar each, the fastest first."""
    out = [text_at(20, y + 24, "Requests per second, 16 callers (program: a static one that prints "
                   "hello)", kind="title")]
    scale = (WIDTH - LEFT - RIGHT) / max(r["rate"] for r in rates.values())
    y += TOP - 16
    for name, r in sorted(rates.items(), key=lambda item: -item[1]["rate"]):
        kind = "ours" if name.startswith("hangupd") else "floor" if "floor" in name else "peer"
        width = r["rate"] * scale
        out += [text_at(LEFT - 8, y + 15, name, "end"),
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 6}" class="{kind}"/>',
                text_at(LEFT + width + 6, y + 15, f"{r['rate']:,.0f}")]
        y += ROW
    return out, y


def distribution(hangups, y):
    """How many of the files were gone after so many milliseconds; a line each."""
    height, width = 200, WIDTH - LEFT - RIGHT
    values = [v for series in hangups.values() for v in series]
    low = math.floor(math.log10(max(min(values), 0.001)))
    high = max(math.ceil(math.log10(max(values))), low + 1)

    def across(ms):
        return LEFT + (math.log10(max(ms, 10 ** low)) - low) / (high - low) * width

    def up(share):
        return y + TOP + (1 - share) * height
    out = [text_at(20, y + 24, "Hangup: share of the files that are gone, after milliseconds",
                   kind="title")]
    for share in (0, 0.5, 0.9, 0.99):
        out += [f'<path class="axis" d="M{LEFT} {up(share):.1f}h{width}"/>',
                text_at(LEFT - 8, up(share) + 4, f"{share:.0%}", "end")]
    for exponent in range(low, high + 1):
        x = across(10 ** exponent)
        out += [f'<path class="axis" d="M{x:.1f} {up(1):.1f}v{height}"/>',
                text_at(x, up(0) + 18, f"{10.0 ** exponent:g}", "middle")]
    for i, (name, series) in enumerate(hangups.items()):
        series = sorted(series)
        step = max(1, len(series) // 200)
        points = [(across(v), up((k + 1) / len(series))) for k, v in enumerate(series)]
        points = points[::step] + points[-1:]
        out.append(f'<path class="line l{i}" d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
                   + '"/>')
        out += [f'<path class="line l{i}" d="M20 {up(1) + 20 * i:.1f}h24"/>',
                text_at(50, up(1) + 20 * i + 4, name)]
    return out, y + TOP + height + 30


def plot(report):
    out, y = [], 0
    if report.rates:
        more, y = bars(report.rates, y)
        out += more
    if report.hangups:
        more, y = distribution(report.hangups, y + 8)
        out += more
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
            f'aria-label="throughput and hangup latency of hangupd and its peers">\n'
            f"<style>{STYLE}\n</style>\n" + "\n".join(out) + "\n</svg>\n")
