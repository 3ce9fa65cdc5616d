#!/usr/bin/env python3
"""fault_network.py: the promise, when the network fails and when a proxy stands in front.

    fault_network.py [--brief] [--seed N] [--part cable|far|proxies|asked]

It makes network namespaces of its own, in which all traffic stays; they have no names, and end
with the last process in them. What it starts ends with it; only if it is itself killed (SIGKILL)
may a request's process be left, one that a scenario had stopped. In them:

- a cable (veth) is pulled and plugged in again,
- a far network (TUN, relayed here) delays each packet by 100 ms and loses one in twenty,
- nginx and HAProxy stand in front, configured by tests/deploy as it stands,
- real clients read an answer, itself and through these, in whose middle they are asked whether they
  are there: by a relay that ends its side for them, and that turns a reset into an end.

A line for each scenario, with what was measured, and a summary. Exit status: 0 all held, 1 the
promise was broken, 77 namespaces are not allowed here. Wants in the environment: EXAMPLES, the
directory of the example programs, and TESTS, that of the tests; in PATH: ip, iptables, openssl,
nginx, haproxy.
"""
import argparse
import collections
import contextlib
import ctypes
import fcntl
import os
import random
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

CALLERS = 48
PATIENCE = 20  # seconds that a loaded machine may take beyond what the settings allow
DEAD_PEER, SEND_TIMEOUT = 3, 6
SKIPPED = 77
HANGUPD_IDLE = 15  # hangupd's --idle-timeout, unless it is told another


def ledger_text(directory, name):
    """A ledger's head and records, without the lines of requests that its slot had before; empty if
    there is none."""
    with contextlib.suppress(OSError), open(os.path.join(directory, name), "rb") as f:
        text = f.read()
        if found := re.match(rb"# hangupd ledger 2 id=\S+ from=(\d+) ", text):
            return text[:512] + text[int(found[1]):]
    return b""


class Violation(Exception):
    """What should have held does not."""


def must(condition, why):
    if not condition:
        raise Violation(why)


def wait_until(look, seconds, what):
    """The seconds until LOOK() holds."""
    begin = time.monotonic()
    while not look():
        must(time.monotonic() - begin < seconds, f"waited {seconds} s for: {what}")
        time.sleep(0.001)
    return time.monotonic() - begin


# ---- Namespaces --------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def open_namespace():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def inside(namespace):
    """What this thread opens and starts meanwhile belongs to NAMESPACE."""
    home = open_namespace()
    checked(libc.setns(namespace, CLONE_NEWNET))
    try:
        yield
    finally:
        checked(libc.setns(home, CLONE_NEWNET))
        os.close(home)


def make_namespace():
    home = open_namespace()
    checked(libc.unshare(CLONE_NEWNET))
    try:
        made = open_namespace()
    finally:
        checked(libc.setns(home, CLONE_NEWNET))
        os.close(home)
    run(made, "ip link set lo up")
    return made


def run(namespace, command):
    with inside(namespace):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}: {done.stderr.strip()}")


# ---- Servers -----------------------------------------------------------------------------

class Daemon:
    """A program in the foreground, with what it says; it does not outlive this process."""

    def __init__(self, namespace, command):
        self.lines = []
        with inside(namespace):
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def has(self, pattern):
        return next((found for line in list(self.lines) if (found := re.search(pattern, line))),
                    None)

    def wait_for(self, pattern, seconds=PATIENCE):
        wait_until(lambda: self.has(pattern) or self.process.poll() is not None, seconds,
                   f"a line with {pattern}")
        must(self.has(pattern), f"the server ended with {self.process.poll()}: {self.lines[-3:]}")
        return self.has(pattern)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()


class Server(Daemon):
    """hangupd with the example handlers, a STATE and a directory for what is made."""

    def __init__(self, place, namespace, address, options):
        self.directory = tempfile.mkdtemp(dir=place)
        self.state = os.path.join(self.directory, "state")
        self.namespace, self.address, self.count = namespace, address, 0
        things = os.path.join(os.environ["EXAMPLES"], "example_things")
        super().__init__(namespace, [things, "--listen", f"{address}:8080", "--state", self.state,
                                     "--idle-timeout", "600", *options.split()])
        self.wait_for("listening on")

    def path(self):
        self.count += 1
        return os.path.join(self.directory, f"made-{self.count}.")

    def child_of(self, path):
        """The process that made PATH, as soon as it has."""
        return int(self.wait_for(re.escape(f"made {path} pid ") + r"(\d+)")[1])

    def wait_outcome(self, path, outcome, seconds=PATIENCE):
        self.wait_for(f'path={re.escape(path)}[& ].*" .* {outcome}( undone=[0-9]+)?$', seconds)

    def connections(self):
        """How many are established in the server's namespace, by its own ends."""
        with open(f"/proc/{self.process.pid}/net/tcp", encoding="ascii") as table:
            rows = [line.split() for line in table][1:]
        return sum(row[3] == "01" and row[1].endswith(":1F90") for row in rows)

    def ledgers(self):
        return [name for directory, _, files in os.walk(self.state) for name in files
                if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+(\.p)?", name) or
                (re.fullmatch(r"slot-[0-9]+", name) and ledger_text(directory, name))]

    def end(self):
        """SIGTERM: it must end well and leave nothing in STATE."""
        self.process.terminate()
        begin, status = time.monotonic(), self.process.wait(60)
        left = [name for name in os.listdir(self.state) if re.fullmatch("[0-9a-f]{16}", name)]
        must(status == 0 and not left and not self.ledgers(),
             f"exit status {status}, left in STATE: {left} {self.ledgers()}: {self.lines[-3:]}")
        return f"ended after {time.monotonic() - begin:.1f} s, nothing left"


@contextlib.contextmanager
def running(daemon):
    try:
        yield daemon
    finally:
        daemon.kill()


# ---- Callers -----------------------------------------------------------------------------

LINGER_RESET = struct.pack("ii", 1, 0)
SO_ATTACH_FILTER = 26
TCP_STATE_OF_INFO = 0  # tcpi_state is the first byte of struct tcp_info
TCP_FIN_WAIT = (4, 5)
CHUNKED = b"\r\ntransfer-encoding: chunked"


class Caller:
    """A connection, and what came in by it."""

    def __init__(self, namespace, address, port=8080, tls=None):
        with inside(namespace):
            self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        self.socket.connect((address, port))
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="test")
        self.heard, self.ended, self.was_reset = bytearray(), False, False

    def ask(self, target, method="GET", fields="", body=b"", version="1.1"):
        head = f"{method} {target} HTTP/{version}\r\nHost: test\r\n{fields}\r\n"
        self.heard = bytearray()
        self.socket.sendall(head.encode() + body)

    def take(self):
        """More of what came: False when nothing more comes, or not without waiting."""
        try:
            more = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.was_reset = True
            more = b""
        self.heard += more
        self.ended = self.ended or not more
        return bool(more)

    def take_what_is_there(self):
        self.socket.setblocking(False)
        while self.take():
            pass

    def answer(self):
        """Read the whole answer: (status, body)."""
        while not is_whole(self.heard, self.ended and not self.was_reset):
            must(not self.ended, f"the answer ended early: {self.heard[-80:]!r}")
            self.take()
        status, head, rest = split(self.heard)
        return status, unchunk(rest) if CHUNKED in head else rest

    def read_until(self, text):
        while text not in self.heard:
            must(self.take(), f"no {text!r} in {self.heard[-80:]!r}")

    def close(self):
        """As close(2) does it: a FIN, or a reset if unread bytes are there."""
        self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.socket.close()

    def close_knowing(self):
        """Hang up by FIN; what had come until then is heard, and nothing later is acknowledged:
        after shutdown(2) of both sides the kernel replies to data with a reset, as after close(2).
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.take_what_is_there()
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        server_ended = info[TCP_STATE_OF_INFO] not in TCP_FIN_WAIT and not self.was_reset
        self.socket.close()
        return server_ended

    def reset_knowing(self):
        """Hang up by a reset; from before the last look on, a filter lets nothing more in."""
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(drop_all))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self.take_what_is_there()
        self.reset()


def split(data):
    """The final answer: (status, head, what follows), or None if its head is not whole."""
    while True:
        head, blank, rest = bytes(data).partition(b"\r\n\r\n")
        if not blank:
            return None
        status = int(head.split()[1])
        if status >= 200:
            return status, head.lower(), rest
        data = rest


def unchunk(data):
    """The body, or None if the last chunk has not come."""
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return None
        size = int(line, 16)
        if size == 0:
            return body if data.startswith(b"\r\n") else None
        body += data[:size]
        data = data[size + 2:]


def is_whole(data, ended_in_order):
    answer = split(data)
    if not answer:
        return False
    _, head, rest = answer
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    if length:
        return len(rest) >= int(length[1])
    if CHUNKED in head:
        return unchunk(rest) is not None
    return ended_in_order


# ---- The cable ---------------------------------------------------------------------------

class Cable:
    """Two machines: the caller's, 10.71.0.1, and the server's, 10.71.0.2."""

    def __init__(self):
        self.near, self.far = make_namespace(), make_namespace()
        run(self.near, f"ip link add caller0 type veth peer name server0 "
                       f"netns /proc/{os.getpid()}/fd/{self.far}")
        for namespace, name, address in ((self.near, "caller0", "10.71.0.1"),
                                         (self.far, "server0", "10.71.0.2")):
            run(namespace, f"ip address add {address}/24 dev {name}")
            run(namespace, f"ip link set {name} up")

    def pull(self, how):
        """down: the link is gone. lost: it looks well, and no packet passes. deaf: what is said to
        the caller is lost. mute: what the caller says is lost."""
        if how == "down":
            run(self.near, "ip link set caller0 down")
        if how in ("lost", "deaf"):
            run(self.near, "iptables -w -A INPUT -j DROP")
        if how in ("lost", "mute"):
            run(self.near, "iptables -w -A OUTPUT -j DROP")

    def plug(self):
        run(self.near, "iptables -w -F")
        run(self.near, "ip link set caller0 up")


def in_time(seconds, allowed, what):
    """Not before its time (the clocks differ by a tick), and soon after it."""
    must(seconds > allowed - 1.5, f"{what} after {seconds:.2f} s, too early for {allowed} s")
    return f"{what} after {seconds:.2f} s (allowed: {allowed} s)"


def must_learn(caller):
    """Undone: at the caller's next word it hears that its request is lost. (A segment that was on
    its way when the server gave up may still arrive, and complete the answer: too late.)"""
    caller.socket.sendall(b"x")
    while caller.take():
        pass
    must(caller.was_reset, f"the caller saw an orderly end: {caller.heard[-80:]!r}")


def wait_undone(server, path, allowed):
    seconds = wait_until(lambda: not os.path.exists(path), allowed + PATIENCE, f"{path} undone")
    server.wait_outcome(path, "hangup undo=ok")
    return seconds


def pulled_at_work(cable, server, how):
    path = server.path()
    caller = Caller(cable.near, server.address)
    caller.ask(f"/make?path={path}&seconds=600")
    server.child_of(path)
    cable.pull(how)
    seconds = wait_undone(server, path, DEAD_PEER)
    cable.plug()
    must_learn(caller)
    return in_time(seconds, DEAD_PEER, "found and undone")


def ask_and_stop(cable, server):
    """A request whose work is done and whose answer is not sent: the child has stopped itself."""
    path = server.path()
    caller = Caller(cable.near, server.address)
    caller.ask(f"/stop?path={path}")
    child = server.child_of(path)
    wait_until(lambda: open(f"/proc/{child}/stat", encoding="ascii").read().split()[2] == "T",
               PATIENCE, "the child to stop")
    return path, caller, child


def question_lost(cable, server, back):
    """A FIN arrives, and what the server asks to learn what it means does not; or late."""
    path, caller, child = ask_and_stop(cable, server)
    cable.pull("deaf")
    caller.half_close()
    if not back:
        return in_time(wait_undone(server, path, DEAD_PEER), DEAD_PEER, "found and undone")
    time.sleep(1)
    cable.plug()
    os.kill(child, signal.SIGCONT)
    caller.answer()
    server.wait_outcome(path, "ok undo=none")
    must(os.path.exists(path), "an answered request was undone")
    return "the half-closed caller was answered"


def pulled_while_idle(cable, server):
    wait_until(lambda: server.connections() == 0, PATIENCE, "earlier connections to end")
    path = server.path()
    caller = Caller(cable.near, server.address)
    caller.ask(f"/make?path={path}")
    caller.answer()
    server.wait_outcome(path, "ok undo=none")
    must(server.connections() == 1, "the connection was not kept alive")
    cable.pull("down")
    seconds = wait_until(lambda: server.connections() == 0, DEAD_PEER + PATIENCE,
                         "the idle connection to be given up")
    must(os.path.exists(path), "an answered request was undone")
    return in_time(seconds, DEAD_PEER, "found")


def pulled_in_answer(cable, server):
    path = server.path()
    caller = Caller(cable.near, server.address)
    caller.ask(f"/stream?path={path}&chunks=1000000&bytes=65536")
    while len(caller.heard) < 1 << 20:
        must(caller.take(), "the answer ended")
    must(os.path.exists(path), "nothing was made")
    cable.pull("down")
    seconds = wait_undone(server, path, SEND_TIMEOUT)
    cable.plug()
    must_learn(caller)
    return in_time(seconds, SEND_TIMEOUT, "found and undone")


def pulled_in_trickle(cable, server):
    """With bytes on their way no probes are sent, and so few of them never fill a window."""
    path = server.path()
    caller = Caller(cable.near, server.address)
    caller.ask(f"/stream?path={path}&chunks=600&bytes=10&ms=100")
    caller.read_until(b"s" * 10)
    cable.pull("lost")
    return in_time(wait_undone(server, path, SEND_TIMEOUT), SEND_TIMEOUT, "found and undone")


def is_delivering(path):
    """Whether the answer is on its way: its ledger says so."""
    def look():
        for directory, _, files in os.walk(os.path.dirname(path)):
            for name in files:
                text = ledger_text(directory, name)
                if path.encode() in text and b"\nsent " in text:
                    return True
        return False
    return look


def last_byte_unacknowledged(cable, server, how):
    path, caller, child = ask_and_stop(cable, server)
    cable.pull(how)
    os.kill(child, signal.SIGCONT)
    wait_until(is_delivering(path), PATIENCE, "the answer to be sent")
    if how == "mute":  # the answer arrives, only its acknowledgement does not
        caller.answer()
    seconds = wait_undone(server, path, SEND_TIMEOUT)
    if how != "mute":
        cable.plug()
        must_learn(caller)
    return in_time(seconds, SEND_TIMEOUT, "no acknowledgement, undone")


def last_byte_acknowledged_late(cable, server, how):
    path, caller, child = ask_and_stop(cable, server)
    cable.pull(how)
    os.kill(child, signal.SIGCONT)
    wait_until(is_delivering(path), PATIENCE, "the answer to be sent")
    begin = time.monotonic()
    time.sleep(1)
    cable.plug()
    caller.answer()
    server.wait_outcome(path, "ok undo=none")
    must(os.path.exists(path), "an answered request was undone")
    return f"acknowledged {time.monotonic() - begin:.2f} s after it was sent, kept"


def back_in_time(cable, server, dead_peer):
    """Away for most of the time allowed: probes must still be sent after it is back."""
    for _ in range(5):  # until this machine was not too slow to be back in time
        path, caller, child = ask_and_stop(cable, server)
        begin = time.monotonic()
        cable.pull("lost")
        time.sleep(dead_peer * 0.75)
        cable.plug()
        away = time.monotonic() - begin
        if away < dead_peer - 2:
            break
    time.sleep(dead_peer + 1 - away)
    must(os.path.exists(path), f"given up, though it was away for {away:.2f} s of {dead_peer} s")
    os.kill(child, signal.SIGCONT)
    must(b"went on" in caller.answer()[1], f"not the answer: {caller.heard!r}")
    server.wait_outcome(path, "ok undo=none")
    must(os.path.exists(path), "an answered request was undone")
    return f"away for {away:.2f} s of {dead_peer} s, answered and kept"


def cable_scenarios(report, place):
    cable = Cable()

    def scenario(name, body, *arguments):
        report.scenario(f"cable: {name}", body, cable, *arguments)
        cable.plug()

    with running(Server(place, cable.far, "10.71.0.2",
                        f"--dead-peer {DEAD_PEER} --send-timeout {SEND_TIMEOUT}")) as server:
        scenario("pulled at work", pulled_at_work, server, "down")
        scenario("all packets lost at work", pulled_at_work, server, "lost")
        scenario("the question after a FIN is lost", question_lost, server, False)
        scenario("the question after a FIN is late", question_lost, server, True)
        scenario("pulled while idle", pulled_while_idle, server)
        scenario("pulled in a long answer", pulled_in_answer, server)
        scenario("all packets lost in a trickling answer", pulled_in_trickle, server)
        scenario("pulled before the last byte arrives", last_byte_unacknowledged, server, "down")
        scenario("the acknowledgement is lost", last_byte_unacknowledged, server, "mute")
        scenario("back before the last byte is given up", last_byte_acknowledged_late, server,
                 "down")
        scenario("acknowledged late", last_byte_acknowledged_late, server, "mute")
        report.scenario("cable: the server's end", server.end)
    with running(Server(place, cable.far, "10.71.0.2", "--dead-peer 12")) as server:
        scenario("back before the caller is given up", back_in_time, server, 12)


# ---- The far network: delay and loss -----------------------------------------------------

TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001
DELAY = 0.1


def open_tunnel(namespace, name, address):
    with inside(namespace):
        tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    run(namespace, f"ip address add {address}/24 dev {name}")
    run(namespace, f"ip link set {name} up")
    run(namespace, "iptables -w -A INPUT -m statistic --mode random --probability 0.05 -j DROP")
    return tunnel


def relay(tunnels):
    """Carry packets from each tunnel to the other, each DELAY late."""
    on_the_way = collections.deque()
    while True:
        late = on_the_way[0][0] - time.monotonic() if on_the_way else None
        ready, _, _ = select.select(tunnels, [], [], late and max(late, 0))
        for tunnel in ready:
            with contextlib.suppress(BlockingIOError):
                on_the_way.append((time.monotonic() + DELAY, tunnels[tunnel == tunnels[0]],
                                   os.read(tunnel, 65536)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # a full queue loses a packet, as queues do
                os.write(on_the_way[0][1], on_the_way[0][2])
            on_the_way.popleft()


@contextlib.contextmanager
def far_network():
    near, far = make_namespace(), make_namespace()
    tunnels = [open_tunnel(near, "caller0", "10.72.0.1"), open_tunnel(far, "server0", "10.72.0.2")]
    pid = os.fork()
    if pid == 0:
        checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        relay(tunnels)
    for tunnel in tunnels:
        os.close(tunnel)
    try:
        yield near, far
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


class FarCaller(threading.Thread):
    """One caller: a request or two, and a hangup or none, at a moment of its own. Its verdict on
    each request, by path: "answered", "unanswered", or "undecided" where by the promise's own
    words only the server can know."""

    def __init__(self, namespace, server, dice):
        super().__init__()
        self.namespace, self.server, self.dice = namespace, server, dice
        self.verdicts, self.error, self.size = {}, None, 0
        self.paths = [server.path() for _ in range(dice.choice((1, 1, 2)))]
        self.hangup = dice.choice(("stay", "fin", "fin", "reset", "reset"))
        self.patience = dice.uniform(0.1, 1.5)

    def run(self):
        try:
            caller = Caller(self.namespace, self.server.address)
            caller.socket.settimeout(60)
            for path in self.paths[:-1]:
                self.ask(caller, path, "1.1")
                caller.answer()
                self.verdicts[path] = "answered"
            self.ask(caller, self.paths[-1], self.dice.choice(("1.1", "1.1", "1.0")))
            self.verdicts[self.paths[-1]] = self.stay_or_go(caller)
        except (OSError, ValueError, Violation) as error:
            self.error = error

    def ask(self, caller, path, version):
        seconds, self.size = self.dice.uniform(0, 1), 0
        kind = self.dice.choice(("make", "post", "stream", "length"))
        if kind == "make":
            caller.ask(f"/make?path={path}&seconds={seconds:.2f}", version=version)
        elif kind == "post":
            body = b"b" * self.dice.randrange(1, 9000)
            caller.ask(f"/ignore-body?path={path}&seconds={seconds:.2f}", "POST",
                       f"Content-Length: {len(body)}\r\n", body, version)
        else:
            self.size = 5 * self.dice.randrange(1, 6000)
            caller.ask(f"/{kind}?path={path}&chunks=5&bytes={self.size // 5}"
                       f"&ms={seconds * 200:.0f}", version=version)

    def stay_or_go(self, caller):
        if self.hangup == "stay":
            caller.answer()
            caller.close_knowing()
            return "answered"
        until = time.monotonic() + self.patience
        while not caller.ended and (left := until - time.monotonic()) > 0:
            if select.select([caller.socket], [], [], left)[0]:
                caller.take()
        if self.hangup == "reset":
            caller.reset_knowing()
        else:
            server_ended = caller.close_knowing()
            if is_whole(caller.heard, server_ended):
                return "answered"
        # Whether a whole answer was acknowledged before a reset, and whether the FIN that ends one
        # of HTTP/1.0 still came, the server alone knows.
        answer = split(caller.heard)
        has_all = is_whole(caller.heard, answer and len(answer[2]) >= self.size)
        return "undecided" if has_all else "unanswered"


def judge(server, callers):
    counts = collections.Counter()
    wrong = []
    for caller in callers:
        if caller.error:
            wrong.append(f"a caller failed: {caller.error!r}")
        for path, verdict in caller.verdicts.items():
            kept = os.path.exists(path)
            counts[verdict] += 1
            counts[f"{verdict}, made"] += server.has(re.escape(f"made {path} ")) is not None
            counts[f"{verdict}, kept"] += kept
            if (verdict == "answered") != kept and verdict != "undecided":
                wrong.append(f"{path}: {verdict}, but {'kept' if kept else 'undone'}")
    return counts, wrong


def far_hangups(namespace, server, dice):
    callers = [FarCaller(namespace, server, random.Random(dice.random())) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    wait_until(lambda: not server.ledgers(), 30 + PATIENCE, "the last request to be settled")
    counts, wrong = judge(server, callers)
    must(not wrong, "; ".join(wrong))
    must(counts["answered"] and counts["unanswered, made"], f"nothing was tried: {dict(counts)}")
    return (f"{counts['answered']} answered: all kept; {counts['unanswered']} hung up "
            f"({counts['unanswered, made']} at work): all undone; "
            f"undecided: {counts['undecided']}, {counts['undecided, kept']} kept")


def far_hangup_time(namespace, server, how):
    """With the loss switched off: how long a hangup is on its way."""
    path = server.path()
    caller = Caller(namespace, server.address)
    caller.ask(f"/make?path={path}&seconds=600")
    server.child_of(path)
    getattr(caller, how)()
    seconds = wait_until(lambda: not os.path.exists(path), PATIENCE, f"{path} undone")
    must(seconds > DELAY, f"undone after {seconds:.3f} s: the network is not far")
    server.wait_outcome(path, "hangup undo=ok")
    return f"undone after {seconds * 1000:.0f} ms"


def far_scenarios(report, place, dice, rounds):
    with far_network() as (near, far), \
            running(Server(place, far, "10.72.0.2", "--send-timeout 20")) as server:
        for number in range(rounds):
            report.scenario(f"far: {CALLERS} callers, 100 ms, 5 % lost, round {number + 1}",
                            far_hangups, near, server, dice)
        for namespace in near, far:
            run(namespace, "iptables -w -F")
        report.scenario("far: hangup by FIN", far_hangup_time, near, server, "close")
        report.scenario("far: hangup by reset", far_hangup_time, near, server, "reset")
        report.scenario("far: the server's end", server.end)


# ---- Proxies in front ---------------------------------------------------------------------

# What a site's configuration needs around it to be run by a test.
NGINX_AROUND = """
daemon off; master_process off; pid PLACE/nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path PLACE; proxy_temp_path PLACE; fastcgi_temp_path PLACE;
    uwsgi_temp_path PLACE; scgi_temp_path PLACE;
    include PLACE/site.conf;
}
"""


def deploy_file(name):
    with open(os.path.join(os.environ["TESTS"], "deploy", name), encoding="utf-8") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def replaced(text, what, by):
    must(what in text, f"the configuration has no {what}")
    return text.replace(what, by)


def start_nginx(place, namespace):
    site = replaced(deploy_file("nginx.conf"), "so_keepalive=10:10:2", "so_keepalive=1:1:2")
    write(os.path.join(place, "site.conf"), site)
    around = write(os.path.join(place, "nginx.conf"), NGINX_AROUND.replace("PLACE", place))
    return Daemon(namespace, ["nginx", "-p", place, "-c", around])


def start_haproxy(place, namespace, certificate, port=80):
    config = replaced(deploy_file("haproxy.cfg"), "/etc/haproxy/hangupd.pem", certificate)
    for setting in ("clitcpka-idle", "clitcpka-intvl"):
        config = replaced(config, f"{setting} 10s", f"{setting} 1s")
    config = replaced(config, "tcp-ut 30s", "tcp-ut 3s").replace("bind :80 ", f"bind :{port} ")
    return Daemon(namespace, ["haproxy", "-db", "-f",
                              write(os.path.join(place, "haproxy.cfg"), config)])


def set_retries(namespace, number):
    """How often what is not acknowledged is sent again: the number before."""
    with inside(namespace), open("/proc/sys/net/ipv4/tcp_retries2", "r+", encoding="ascii") as file:
        before = file.read()
        file.seek(0)
        file.write(number)
    return before


def make_certificate(place):
    """Self-signed: key and certificate in one file, as HAProxy wants them."""
    name = os.path.join(place, "hangupd.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=DNS:test", "-keyout", name, "-out", name + ".crt"],
                   check=True, capture_output=True)
    with open(name, "a", encoding="ascii") as both, open(name + ".crt", encoding="ascii") as crt:
        both.write(crt.read())
    return name


class Front:
    """A way to the server through a proxy: where callers connect."""

    def __init__(self, cable, server, port, tls=None):
        self.cable, self.server, self.port, self.tls = cable, server, port, tls

    def caller(self):
        return Caller(self.cable.near, "10.71.0.2", self.port, self.tls)

    def wait_ready(self):
        def accepts():
            with contextlib.suppress(OSError):
                self.caller().close()
                return True
            return False
        wait_until(accepts, PATIENCE, f"the proxy to listen on {self.port}")

    def wait_undone(self, path):
        seconds = wait_until(lambda: not os.path.exists(path), PATIENCE, f"{path} undone")
        self.server.wait_outcome(path, "hangup undo=ok")
        return f"undone after {seconds * 1000:.1f} ms"

    def must_keep(self, path):
        self.server.wait_outcome(path, "ok undo=none")
        must(os.path.exists(path), "an answered request was undone")


def proxied_answer(front):
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/make?path={path}")
    must(caller.answer() == (200, b"made\n"), f"not the answer: {caller.heard!r}")
    caller.close()
    front.must_keep(path)
    return "kept"


def proxied_hangup(front, how):
    """how: close, reset, or half_close."""
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/make?path={path}&seconds=600")
    front.server.child_of(path)
    getattr(caller, how)()
    return front.wait_undone(path)


def proxied_post(front, chunked):
    caller = front.caller()
    body = bytes(random.Random(1).randbytes(300000))
    if chunked:
        pieces = [body[n:n + 7777] for n in range(0, len(body), 7777)] + [b""]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        caller.ask("/echo", "POST", "Transfer-Encoding: chunked\r\n", sent)
    else:
        caller.ask("/echo", "POST", f"Content-Length: {len(body)}\r\n"
                                    "Expect: 100-continue\r\n")
        caller.read_until(b"100 Continue\r\n\r\n")
        caller.socket.sendall(body)
    must(caller.answer() == (200, b"%d " % len(body) + body), "another body came back")
    return f"{len(body)} bytes there and back"


def proxied_post_hangup(front):
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/ignore-body?path={path}&seconds=600", "POST", "Content-Length: 300000\r\n",
               b"b" * 300000)
    front.server.child_of(path)
    caller.close()
    return front.wait_undone(path)


def proxied_half_post(front):
    """Gone before the body was whole: no handler may run."""
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/ignore-body?path={path}", "POST", "Content-Length: 300000\r\n", b"b" * 100000)
    caller.close()
    proxied_answer(front)
    must(not os.path.exists(path) and not front.server.has(re.escape(path) + " pid"),
         "a handler ran with half a body")
    return "no handler ran"


def proxied_stream(front):
    """What is written reaches the caller long before the end, which is a minute away."""
    path = front.server.path()
    caller = front.caller()
    begin = time.monotonic()
    caller.ask(f"/stream?path={path}&chunks=600&bytes=10&ms=100")
    caller.read_until(b"s" * 10)
    seconds = time.monotonic() - begin
    caller.close()
    return f"begun after {seconds * 1000:.1f} ms, hung up, {front.wait_undone(path)}"


def proxied_large(front):
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/stream?path={path}&chunks=500&bytes=65536")
    while not caller.heard.endswith(b"\r\n0\r\n\r\n"):
        must(caller.take(), "the answer ended early")
    must(caller.heard.count(b"s") >= 500 * 65536, "the answer is not whole")
    front.must_keep(path)
    return "32 MB, kept"


def proxied_large_hangup(front):
    """The caller takes a little, stops, and goes. A proxy that collects answers has then
    acknowledged all of it."""
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/stream?path={path}&chunks=1000&bytes=65536")
    while len(caller.heard) < 200000:
        must(caller.take(), "the answer ended early")
    pieces = 0

    def stands_still():
        nonlocal pieces
        before, pieces = pieces, sum("wrote piece" in line for line in front.server.lines)
        time.sleep(0.3)
        return pieces == before
    wait_until(stands_still, PATIENCE, "the answer to stand still")
    must(os.path.exists(path), "it did not wait for the caller")
    caller.close()
    return front.wait_undone(path)


def proxied_pulled(front, how):
    """The proxy finds the caller that vanished, by the keep-alive probes it is told to send."""
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/make?path={path}&seconds=600")
    front.server.child_of(path)
    front.cable.pull(how)
    return front.wait_undone(path)


def proxied_pulled_in_stream(front):
    """The same with bytes on their way to it, when no probes are sent, and so few of them that
    nothing stands still."""
    path = front.server.path()
    caller = front.caller()
    caller.ask(f"/stream?path={path}&chunks=600&bytes=10&ms=100")
    caller.read_until(b"s" * 10)
    front.cable.pull("lost")
    return front.wait_undone(path)


def proxied_keep_alive(front, per_caller):
    """Many requests to the proxy are few connections to the server."""
    before = len(front.server.lines)
    for _ in range(60 // per_caller):
        caller = front.caller()
        for _ in range(per_caller):
            caller.ask("/who")
            caller.answer()
        caller.close()
    wait_until(lambda: sum('"GET /who' in line for line in front.server.lines[before:]) == 60,
               PATIENCE, "60 requests in the log")
    used = {found[1] for line in front.server.lines[before:]
            if (found := re.search(r'(\S+) "GET /who', line))}
    must(len(used) <= 6, f"60 requests took {len(used)} connections to the server")
    return f"60 requests, {len(used)} to the server"


def proxied_idle(front):
    """The proxy ends its idle connections before hangupd does: a request that is sent while
    hangupd closes would fail."""
    callers = [front.caller() for _ in range(10)]
    for caller in callers:
        caller.ask(f"/make?path={front.server.path()}&seconds=0.5")
    for caller in callers:
        caller.answer()
        caller.close()
    must(front.server.connections(), "no connection was kept alive")
    seconds = wait_until(lambda: not front.server.connections(), HANGUPD_IDLE,
                         "the proxy to end its idle connections")
    return f"the last one ended after {seconds:.1f} s"


def proxy_scenarios(report, name, front):
    def scenario(what, body, *arguments):
        report.scenario(f"{name}: {what}", body, front, *arguments)
        front.cable.plug()

    front.wait_ready()
    scenario("answered", proxied_answer)
    scenario("hangup by FIN", proxied_hangup, "close")
    scenario("hangup by reset", proxied_hangup, "reset")
    scenario("half-closed, which the proxy takes for a hangup", proxied_hangup, "half_close")
    scenario("POST with a length and Expect", proxied_post, False)
    scenario("POST in chunks", proxied_post, True)
    scenario("hangup after a body", proxied_post_hangup)
    scenario("hangup in a body", proxied_half_post)
    scenario("streamed", proxied_stream)
    scenario("large answer", proxied_large)
    scenario("hangup in a large answer", proxied_large_hangup)
    scenario("keep-alive, callers that stay", proxied_keep_alive, 20)
    scenario("keep-alive, callers that come and go", proxied_keep_alive, 1)
    scenario("pulled at work", proxied_pulled, "down")
    scenario("all packets lost at work", proxied_pulled, "lost")
    scenario("all packets lost in a trickling answer", proxied_pulled_in_stream)
    scenario("idle", proxied_idle)


def proxies_scenarios(report, place):
    cable = Cable()
    certificate = make_certificate(place)
    tls = ssl.create_default_context(cafile=certificate)
    with running(Server(place, cable.far, "127.0.0.1", "")) as server:
        before = set_retries(cable.far, "3")  # nginx.conf advises 8, which is 100 s
        with running(start_nginx(place, cable.far)):
            proxy_scenarios(report, "nginx", Front(cable, server, 80))
        set_retries(cable.far, before)
        with running(start_haproxy(place, cable.far, certificate)):
            proxy_scenarios(report, "HAProxy", Front(cable, server, 80))
            proxy_scenarios(report, "HAProxy, TLS", Front(cable, server, 443, tls))
        report.scenario("proxies: the server's end", server.end)


# ---- Asked in mid-answer ------------------------------------------------------------------

STREAM = """#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'; echo first; read word <DIRECTORY/go; END
"""
GO_CLIENT = """package main
import ("io"; "net/http"; "os")
func main() {
    r, err := http.Get(os.Args[1])
    if err != nil { os.Exit(2) }
    if _, err := io.Copy(os.Stdout, r.Body); err != nil { os.Exit(3) }
}
"""
# Each prints the body, and ends with 0 only if it takes it for whole.
CLIENTS = {
    "curl": ["curl", "-sS"],
    "wget": ["wget", "-qO-", "--tries=1"],
    "Python, http.client": ["python3", "-c", "import sys, urllib.request as u; "
                            "sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())"],
    "Python, requests": ["python3", "-c", "import sys, requests; "
                         "sys.stdout.write(requests.get(sys.argv[1]).text)"],
    "Node, fetch": ["node", "-e", "fetch(process.argv[1]).then(r => r.text()).then("
                    "t => process.stdout.write(t)).catch(() => process.exit(3))"],
    "Go": ["GO"],
}


class AskingRelay:
    """A TCP relay on 127.0.0.1:8080, for one caller at a time. Told to, it ends its side towards the
    server, so that the server asks; and a reset becomes an end, as in relays that know none."""

    def __init__(self, namespace, server):
        self.server, self.namespace = server, namespace
        with inside(namespace):
            self.listener = socket.create_server(("127.0.0.1", 8080))
        self.listener.settimeout(PATIENCE)

    def connect(self):
        self.below = self.listener.accept()[0]
        with inside(self.namespace):
            self.above = socket.create_connection((self.server.address, 8080))
        request = b""
        while b"\r\n\r\n" not in request:
            request += self.below.recv(65536)
        self.above.sendall(request)
        self.above.settimeout(PATIENCE)
        self.heard = b""

    def pass_until(self, text):
        while not self.heard.endswith(text):
            more = self.above.recv(65536)
            must(more, f"the answer ended early: {self.heard!r}")
            self.heard += more
            self.below.sendall(more)

    def ask(self, questions):
        if questions:
            self.above.shutdown(socket.SHUT_WR)
        for byte in (b"\r", b"\n")[:questions]:
            self.pass_until(byte)

    def finish(self):
        """Pass on what comes, up to the end of the answer or of the connection."""
        with contextlib.suppress(ConnectionError):
            while not self.heard.endswith(b"\r\n0\r\n\r\n") and (more := self.above.recv(65536)):
                self.heard += more
                self.below.sendall(more)
        self.below.close()
        self.above.close()


def read_asked(client, relay, port, cut, questions):
    """What CLIENT makes of an answer: its exit status, and the body that it took."""
    url = f"http://127.0.0.1:{port}/{'cut' if cut else 'whole'}"
    with inside(relay.namespace):
        process = subprocess.Popen([*client, url], stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        relay.connect()
        relay.pass_until(b"first\n")
        relay.ask(questions)
        with open(os.path.join(relay.server.directory, "go"), "w", encoding="ascii") as go:
            go.write("go\n")
        relay.finish()
        return process.communicate(timeout=PATIENCE)[0], process.returncode
    finally:
        process.kill()
        process.wait()


def asked(client, relay, port):
    for questions in 0, 1, 2:
        body, status = read_asked(client, relay, port, False, questions)
        must(body == "first\nsecond\n" and status == 0,
             f"asked {questions} times it read {body!r}, and ended with {status}")
        body, status = read_asked(client, relay, port, True, questions)
        must(status != 0, f"asked {questions} times it took the cut {body!r} for whole")
    return "the same whether asked or not; cut is seen as cut"


def silent_hangup(front):
    """The time from a caller's FIN in the middle of a silent answer until it is undone."""
    took = []
    for _ in range(20):
        caller = front.caller()
        caller.ask("/sleep")
        caller.read_until(b"first\n")
        caller.take_what_is_there()
        made = os.path.join(front.server.directory, "made")
        must(os.path.exists(made), "nothing was made")
        caller.close()
        took.append(wait_until(lambda: not os.path.exists(made), PATIENCE, "the undo"))
    took.sort()
    must(took[len(took) // 2] < 0.1, f"undone after {took[len(took) // 2]:.3f} s")
    return f"undone after {took[len(took) // 2] * 1000:.1f} ms, at most {took[-1] * 1000:.1f} ms"


def asked_clients(place):
    """Those that are installed, and their commands."""
    program = os.path.join(place, "client")
    clients = dict(CLIENTS)
    write(program + ".go", GO_CLIENT)
    if shutil.which("go") and subprocess.run(["go", "build", "-o", program, program + ".go"],
                                             check=False).returncode == 0:
        clients["Go"] = [program]
    wanted = {"Python, requests": "import requests"}
    for name, command in clients.items():
        there = shutil.which(command[0]) and (name not in wanted or subprocess.run(
            ["python3", "-c", wanted[name]], check=False, capture_output=True).returncode == 0)
        if there:
            yield name, command
        else:
            print(f"      asked: {name}: skipped, it is not installed", flush=True)


def asked_scenarios(report, place, brief):
    cable = Cable()
    routes = {"whole": "echo second", "cut": "kill -9 $$",
              "sleep": 'echo "unlink DIRECTORY/made" >&3; : >DIRECTORY/made; '}
    directory = tempfile.mkdtemp(dir=place)
    options = ""
    for name, end in routes.items():
        text = STREAM.replace("END", end)
        if name == "sleep":
            text = text.replace("#!/bin/sh\n", "#!/bin/sh\n" + end).split("read")[0] + "exec sleep 600\n"
        path = write(os.path.join(directory, name), text.replace("DIRECTORY", directory))
        os.chmod(path, 0o755)
        options += f" /{name}={path}"
    os.mkfifo(os.path.join(directory, "go"))
    with running(Server(place, cable.far, "127.0.0.2", options)) as server:
        server.directory = directory
        relay = AskingRelay(cable.far, server)
        fronts = {"": 8080, "nginx": 80, "HAProxy": 81}
        with running(start_nginx(place, cable.far)), \
                running(start_haproxy(place, cable.far, make_certificate(place), 81)):
            time.sleep(1)
            for name, command in asked_clients(place):
                for front, port in list(fronts.items())[:1 if brief and name != "curl" else 3]:
                    report.scenario(f"asked: {name}{', through ' * bool(front)}{front}", asked,
                                    command, relay, port)
        relay.listener.close()
        front = Front(cable, server, 8080)
        front.caller = lambda: Caller(cable.far, "127.0.0.2")
        report.scenario("asked: hangup in a silent answer", silent_hangup, front)
        report.scenario("asked: the server's end", server.end)


# ---- All of it ----------------------------------------------------------------------------

class Report:
    def __init__(self):
        self.tried, self.violations = 0, 0

    def scenario(self, name, body, *arguments):
        self.tried += 1
        begin = time.monotonic()
        try:
            measured = body(*arguments)
            print(f"ok    {name}: {measured} [{time.monotonic() - begin:.1f} s]", flush=True)
        except (Violation, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as why:
            self.violations += 1
            print(f"FAIL  {name}: {why}", flush=True)


def may_make_namespaces():
    try:
        os.close(make_namespace())
    except FileNotFoundError:
        raise  # no ip(8): make need-network
    except OSError as why:
        print(f"fault_network: skipped: no network namespaces here: {why}")
        return False
    return True


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--brief", action="store_true", help="one round of hangups from afar")
    options.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options.add_argument("--part", choices=("cable", "far", "proxies", "asked"))
    options = options.parse_args()
    if not may_make_namespaces():
        return SKIPPED
    report, begin = Report(), time.monotonic()
    place = tempfile.mkdtemp(prefix="hangupd-network-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        dice, rounds = random.Random(options.seed), 1 if options.brief else 5
        parts = {"cable": lambda: cable_scenarios(report, place),
                 "far": lambda: far_scenarios(report, place, dice, rounds),
                 "proxies": lambda: proxies_scenarios(report, place),
                 "asked": lambda: asked_scenarios(report, place, options.brief)}
        for name, part in parts.items():
            if options.part in (None, name):
                part()
    finally:
        shutil.rmtree(place)
    print(f"fault_network: {report.tried} scenarios, {report.violations} violations, "
          f"{time.monotonic() - begin:.0f} s (--seed {options.seed})")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
