#!/usr/bin/env python3
"""Measure hangupd beside the floor and its peers; issue a table and a plot.

    bench.py PROGRAMS HANGUPD        (called by `make bench`)

PROGRAMS is the directory of bench's own programs, HANGUPD the product. In the environment:
    BENCH          the parts to run, of those in PARTS below; all without it
    BENCH_ROUNDS   how many rounds, of which the median counts (5)
    BENCH_SECONDS  of each measurement of requests/s (3)
    BENCH_SUSTAINED  of the measurements that ask for long (60)
    BENCH_OUT      where results.md and results.svg go, when all parts ran (tests/bench)

All that is compared runs in one run, in turns, on the same two processors and on loopback, the
callers too. A target that is not reached is told and is no failure; what could not be measured is.
"""

import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

import report
import servers
from servers import Failure

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "3"))
SUSTAINED = int(os.environ.get("BENCH_SUSTAINED", "60"))
median = statistics.median


def percentile(values, p):
    return sorted(values)[int(p * (len(values) - 1))]


def in_turns(entries, measure):
    """{name: [a result a round]}, measuring one after the other, ROUNDS times."""
    results = {name: [] for name in entries}
    for _ in range(ROUNDS):
        for name, entry in entries.items():
            results[name].append(measure(entry))
    return results


def rates_of(results):
    """The medians, and the sum of the errors."""
    return {name: {"rate": median(r["rate"] for r in rounds),
                   "p50": median(r["p50"] for r in rounds),
                   "p99": median(r["p99"] for r in rounds),
                   "errors": int(sum(r["errors"] for r in rounds))}
            for name, rounds in results.items()}


# ---- Requests a second: handlers and the floor, programs and the peers -----------------------

FLOOR, HANDLER, KEPT, PROGRAM = "the floor", "hangupd, handler", "hangupd, handler, keep-alive", \
    "hangupd, program"
PEERS = {"lighttpd, mod_cgi": servers.lighttpd, "Go, net/http/cgi": servers.go_cgi,
         "busybox httpd": servers.busybox, "nginx, fcgiwrap": servers.nginx,
         "Apache prefork, mod_cgi": servers.apache}
TCPSERVER, GO = "tcpserver", "Go, in process"


def start_all(place):
    """(server, how it is called) by name; those that serve programs come last."""
    handler = servers.handlers(place)
    entries = {FLOOR: (servers.floor(place), "close"), HANDLER: (handler, "close"),
               KEPT: (handler, "keep"), GO: (servers.go(place), "close"),
               TCPSERVER: (servers.tcpserver(place), "close")}
    for name, start in PEERS.items():
        entries[name] = (start(place), "close")
    try:
        entries[PROGRAM] = (servers.programs(place), "close")
    except Failure as why:
        servers.warn(f"{PROGRAM}: {why}")
    return entries


def throughput(place, out):
    entries = start_all(place)
    rates = rates_of(in_turns(entries, lambda e: servers.rate(place, e[0], e[1], SECONDS)))
    for server in {id(e[0]): e[0] for e in entries.values()}.values():
        server.stop()
    out.rates = rates
    base = rates[FLOOR]
    out.add("handler, connection per request, of the floor's requests/s",
            rates[HANDLER]["rate"] / base["rate"], "at least 0.9", lambda v: v >= 0.9)
    out.add("handler, keep-alive, of the floor's requests/s", rates[KEPT]["rate"] / base["rate"],
            "at least 1.2", lambda v: v >= 1.2)
    out.add("handler, p99 of the latency, of the floor's", rates[HANDLER]["p99"] / base["p99"],
            "at most 1", lambda v: v <= 1)
    best = max(PEERS, key=lambda name: rates[name]["rate"])
    if PROGRAM not in rates:
        out.fail("programs", "hangupd did not start with a program as a route")
        return
    out.add(f"program, of the requests/s of the best peer ({best})",
            rates[PROGRAM]["rate"] / rates[best]["rate"], "at least 1", lambda v: v >= 1)
    out.add("program, of tcpserver's requests/s", rates[PROGRAM]["rate"] / rates[TCPSERVER]["rate"],
            "at least 0.8", lambda v: v >= 0.8)


# ---- Programs for long: does the rate last? --------------------------------------------------

SLICE = 10  # seconds
CALLERS = (1, 4, 16, 64)
ASKED_LONG = {name: PEERS[name] for name in ("lighttpd, mod_cgi", "Go, net/http/cgi")}


def slices(place, server, callers):
    """The rate of each SLICE of SUSTAINED, one after the other."""
    return [servers.rate(place, server, "close", SLICE, callers)["rate"]
            for _ in range(max(1, SUSTAINED // SLICE))]


def sustained(place, out):
    for name, under in (("ext4 or what /tmp is", None), ("tmpfs", "/dev/shm")):
        here = servers.Place(place.bin, place.hangupd, under)
        try:
            ours = servers.programs(here)
            peers = {peer: start(here) for peer, start in ASKED_LONG.items()}
            peers[TCPSERVER] = servers.tcpserver(here)
            peers[FLOOR] = servers.floor_of_programs(here)
            for callers in CALLERS:
                rates = slices(here, ours, callers)
                theirs = {peer: servers.rate(here, server, "close", SLICE, callers)["rate"]
                          for peer, server in peers.items()}
                best = max(ASKED_LONG, key=theirs.get)
                mean = statistics.mean(rates)
                out.sustained.append((name, callers, mean, rates[0], rates[-1], best,
                                      mean / theirs[best], mean / theirs[TCPSERVER],
                                      mean / theirs[FLOOR], theirs[FLOOR] / theirs[best]))
                what = f"program, {callers} callers on {name}, for {SUSTAINED} s"
                out.add(f"{what}: of the best peer's", mean / theirs[best], "at least 1.1",
                        lambda v: v >= 1.1)
                out.add("… of tcpserver's", mean / theirs[TCPSERVER], "at least 0.85",
                        lambda v: v >= 0.85)
                out.add("… the last ten seconds, of the first", rates[-1] / rates[0],
                        "at least 0.95", lambda v: v >= 0.95)
        finally:
            here.close()


# ---- Hangup: how long until the file is gone -------------------------------------------------

HANGUPS = 200  # a round
OTHERS = 1000
ALONE, BESIDE, GO_ALONE, GO_BESIDE = ("hangupd", f"hangupd, {OTHERS:,} in flight", "Go, in process",
                                      f"Go, {OTHERS:,} in flight")


def hangups(place, server):
    directory = place.fresh("files")
    text = servers.load(place, "hangup", server.port, "/file?path=", HANGUPS, directory)
    return [float(line) for line in text.split()]


def with_others(place, server, measure):
    directory = place.fresh("files")
    held = servers.Held(place, "slow", server.port, "/file?path=", OTHERS, directory)
    try:
        return measure()
    finally:
        held.hang_up()


def hangup(place, out):
    ours, go = servers.handlers(place, requests=OTHERS + 64), servers.go(place)
    entries = {ALONE: lambda: hangups(place, ours), GO_ALONE: lambda: hangups(place, go),
               BESIDE: lambda: with_others(place, ours, lambda: hangups(place, ours)),
               GO_BESIDE: lambda: with_others(place, go, lambda: hangups(place, go))}
    took = {name: sum(rounds, []) for name, rounds in
            in_turns(entries, lambda measure: measure()).items()}
    ours.stop()
    go.stop()
    out.hangups = took
    out.add("hangup until the file is gone, median, ms", median(took[ALONE]), "at most 0.3",
            lambda v: v <= 0.3)
    out.add("… p99, ms", percentile(took[ALONE], 0.99), "at most 5", lambda v: v <= 5)
    out.add(f"… p99 with {OTHERS:,} requests in flight, ms", percentile(took[BESIDE], 0.99),
            "at most 20", lambda v: v <= 20)
    out.add("… median, beyond Go's, which unlinks in process, ms",
            median(took[ALONE]) - median(took[GO_ALONE]), "at most 0.3", lambda v: v <= 0.3)


# ---- Cost against size -----------------------------------------------------------------------

IDLE, SLOW = 10000, 2000


def hang_up_all(server, held, count):
    """(seconds until all files are gone, processor seconds until all processes are)."""
    servers.wait_until(lambda: len(servers.children(server.process.pid)) == count,
                       f"{count} processes")
    waiting = servers.children(server.process.pid)
    before = servers.processor_s(server.process.pid) + servers.running_s(waiting)
    took = float(held.hang_up().split()[1]) / 1000
    servers.wait_until(lambda: not servers.children(server.process.pid), "the requests to end")
    return took, servers.processor_s(server.process.pid) - before


def open_idle(place, server, count):
    held = servers.Held(place, "idle", server.port, count)
    servers.wait_until(lambda: servers.descriptor_count(server.process.pid) >= count,
                       "the connections to be accepted")
    return held


def size(place, out):
    server = servers.handlers(place, requests=SLOW + 64, connections=IDLE + SLOW)
    undone = []

    def alone():
        return servers.rate(place, server, "close", SECONDS)

    def with_idle():
        held = open_idle(place, server, IDLE)
        try:
            return alone()
        finally:
            held.hang_up()
            servers.wait_until(lambda: servers.descriptor_count(server.process.pid) < 100,
                               "the connections to be closed")

    def with_slow():
        directory = place.fresh("files")
        held = servers.Held(place, "slow", server.port, "/file?path=", SLOW, directory)
        result = alone()
        undone.append(hang_up_all(server, held, SLOW))
        return result

    entries = {"alone": alone, "idle": with_idle, "slow": with_slow}
    rates = rates_of(in_turns(entries, lambda measure: measure()))
    server.stop()
    out.sizes = rates
    out.add(f"requests/s beside {IDLE:,} idle connections, of those without",
            rates["idle"]["rate"] / rates["alone"]["rate"], "at least 0.9", lambda v: v >= 0.9)
    out.add(f"requests/s beside {SLOW:,} slow requests, of those without",
            rates["slow"]["rate"] / rates["alone"]["rate"], "at least 0.8", lambda v: v >= 0.8)
    out.add(f"{SLOW:,} hang up at once: s until all is undone", median(u[0] for u in undone),
            "at most 1", lambda v: v <= 1)
    out.add("… processor time for each, µs", median(u[1] for u in undone) / SLOW * 1e6)


# ---- Footprint -------------------------------------------------------------------------------

MANY, SAMPLE = 10000, 200


def small_server_kb(place):
    """PSS of a server that has no room for many: what is beyond it, the many cost."""
    server = servers.handlers(place, requests=64, connections=64)
    kb = servers.pss_kb(server.process.pid)
    server.stop()
    return kb


def memory(place, pid, count, held_by):
    """(PSS of a request, of which in the parent, kernel memory of a request), in KB, while
    HELD_BY() holds COUNT of them."""
    parent, kernel = small_server_kb(place), servers.kernel_kb()
    held = held_by()
    below = servers.children(pid)
    sample = below[::max(1, len(below) // SAMPLE)]
    child = sum(map(servers.pss_kb, sample)) / len(sample) * len(below) if below else 0
    share = servers.pss_kb(pid) - parent
    return held, (child + share) / count, share / count, (servers.kernel_kb() - kernel) / count


def is_left(server, directory):
    """What a server has left that ended all its requests, in words; '' for nothing."""
    ledgers = [name for path in server.state.iterdir() if path.is_dir()
               for name in os.listdir(path) if "-" in name]
    counts = {"files": len(os.listdir(directory)), "ledgers": len(ledgers),
              "processes": len(servers.children(server.process.pid))}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count > 0)


def footprint(place, out):
    server = servers.handlers(place, requests=MANY, connections=MANY + 2000)
    pid = server.process.pid
    servers.load(place, "rate", server.port, "/hello", 4, "close", 60, 200)  # what is made once
    held, _, share, kernel = memory(place, pid, MANY, lambda: open_idle(place, server, MANY))
    held.hang_up()
    servers.wait_until(lambda: servers.descriptor_count(pid) < 100, "the connections to close")
    out.add("an idle connection: PSS in the parent, KB", share, "at most 1", lambda v: v <= 1)
    out.add("… kernel memory, both ends, KB", kernel)
    directory = place.fresh("files")
    held, total, share, kernel = memory(place, pid, MANY, lambda: servers.Held(
        place, "slow", server.port, "/file?path=", MANY, directory))
    out.add("a slow request, handler: PSS in all, KB", total, "at most 100", lambda v: v <= 100)
    out.add("… of which in the parent, KB", share)
    out.add("… kernel memory, KB", kernel)
    took, cost = hang_up_all(server, held, MANY)
    out.add(f"{MANY:,} in flight hang up at once: s until all is undone", took)
    out.add("… processor time for each, µs", cost / MANY * 1e6)
    left = is_left(server, directory)
    servers.load(place, "rate", server.port, "/hello", 1, "close", 60, 10)
    server.stop()
    left = left or (f"{len(os.listdir(server.state))} in the state directory"
                    if os.listdir(server.state) else "")
    out.add("… what is left of them", left or "nothing", "nothing", lambda v: v == "nothing")


# ---- Recovery --------------------------------------------------------------------------------

LEDGERS = 10000


def crash(place):
    """A server that died, with all its children, with LEDGERS requests in flight: the directory
    of state, and the directory of the files. The server is stopped first, or it would settle
    what its children leave; and they would, if they learned that it is dead."""
    directory = place.fresh("files")
    server = servers.handlers(place, requests=LEDGERS, connections=LEDGERS + 100)
    held = servers.Held(place, "slow", server.port, "/file?path=", LEDGERS, directory)
    os.kill(server.process.pid, signal.SIGSTOP)
    below = servers.children(server.process.pid)
    for pid in below:
        os.kill(pid, signal.SIGKILL)
    servers.wait_until(lambda: all(has_ended(pid) for pid in below), "the children to end")
    server.process.kill()
    server.process.wait()
    place.stop(held.process)
    count = len(os.listdir(directory))
    if count != LEDGERS:
        raise Failure(f"the crash left {count} files, not {LEDGERS}")
    return server.state, directory


def has_ended(pid):
    try:
        return servers.stat_fields(pid)[0] == b"Z"
    except FileNotFoundError:
        return True


def recovery(place, out):
    state, directory = crash(place)
    old = [path for path in state.iterdir() if path.is_dir()]
    begin = time.monotonic()
    server = servers.handlers(place, state=state)
    listening = time.monotonic() - begin
    answers, slowest = 0, 0
    while any(path.exists() for path in old):
        asked = time.monotonic()
        servers.load(place, "rate", server.port, "/hello", 1, "close", 60, 1)
        answers, slowest = answers + 1, max(slowest, time.monotonic() - asked)
        if asked - begin > servers.PATIENCE_S:
            raise Failure("the recovery does not end")
    took = time.monotonic() - begin
    left = len(os.listdir(directory))
    server.stop()
    if left > 0:
        raise Failure(f"recovery left {left} files")
    out.add(f"recovery of {LEDGERS:,} ledgers at the start, s", took, "at most 2",
            lambda v: v <= 2)
    out.add("… until it listens, s", listening)
    out.add("… requests answered meanwhile", float(answers), "at least 1", lambda v: v >= 1)
    out.add("… the slowest of them, ms, its caller's start included", slowest * 1000)


# ---- The first byte of a program's answer ----------------------------------------------------

def stream(place, out):
    server = servers.programs(place)
    text = servers.load(place, "first", server.port, "/stream", 100)
    server.stop()
    took = [float(line) for line in text.split()]
    out.add("first byte of a streamed answer after the program's write, median, ms", median(took),
            "at most 1", lambda v: v <= 1)
    out.add("… p99, ms", percentile(took, 0.99))


# ---- System calls and page faults ------------------------------------------------------------

COUNTED = 200


def system_calls(place, server, how):
    """(by the parent, by children) for a request."""
    trace = place.dir / "strace.out"
    pid = server.process.pid
    strace = place.start(["strace", "-f", "-p", str(pid), "-o", str(trace)],
                         stderr=subprocess.PIPE, text=True)
    strace.stderr.readline()  # "Process N attached"
    servers.load(place, "rate", server.port, server.path, 1, how, 60, COUNTED)
    servers.wait_until(lambda: not servers.children(pid), "the requests to end")
    strace.send_signal(signal.SIGINT)
    strace.communicate()
    place.stop(strace)
    calls = {True: 0, False: 0}
    with open(trace, errors="replace") as lines:
        for line in lines:
            call = re.match(r"(\d+) +[a-z_0-9]+\(", line)
            if call:
                calls[int(call.group(1)) == pid] += 1
    return calls[True] / COUNTED, calls[False] / COUNTED


def page_faults(place, server, how):
    before = servers.faults(server.process.pid)
    servers.load(place, "rate", server.port, server.path, 1, how, 60, COUNTED)
    servers.wait_until(lambda: not servers.children(server.process.pid), "the requests to end")
    after = servers.faults(server.process.pid)
    return tuple((b - a) / COUNTED for a, b in zip(before, after))


def syscalls(place, out):
    entries = {FLOOR: (servers.floor, "close"), HANDLER: (servers.handlers, "close"),
               KEPT: (servers.handlers, "keep"), PROGRAM: (servers.programs, "close")}
    for name, (start, how) in entries.items():
        try:
            server = start(place)
        except Failure as why:
            out.fail(f"system calls: {name}", why)
            continue
        servers.load(place, "rate", server.port, server.path, 1, how, 60, 20)
        faults = page_faults(place, server, how)
        if name == FLOOR:  # nobody reaps its children: the kernel does not count for it
            faults = (faults[0], None)
        out.counts[name] = (*system_calls(place, server, how), *faults)
        server.stop()


# ---- All of it -------------------------------------------------------------------------------

PARTS = {"throughput": throughput, "sustained": sustained, "hangup": hangup, "size": size, "footprint": footprint,
         "recovery": recovery, "stream": stream, "syscalls": syscalls}
BUSY = 0.5


def main():
    wanted = os.environ.get("BENCH", "").split() or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if len(sys.argv) != 3 or unknown:
        sys.exit(f"usage: bench.py PROGRAMS HANGUPD; BENCH: of {' '.join(PARTS)}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    out = report.Report(ROUNDS, SECONDS, servers.quiet_load())
    if out.load > BUSY:
        servers.warn(f"the machine is busy (load {out.load:.2f}): these figures mean little")
    for name in wanted:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        place = servers.Place(sys.argv[1], sys.argv[2])
        try:
            PARTS[name](place, out)
        except Failure as why:
            out.fail(name, why)
        finally:
            place.close()
    print(out.text())
    if set(wanted) == set(PARTS):
        out.write(pathlib.Path(os.environ.get("BENCH_OUT", servers.HERE)))
    return 1 if out.failures else 0


if __name__ == "__main__":
    sys.exit(main())
