"""The servers that are measured, and the callers: starting, stopping, looking at their processes."""

import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 120
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024


class Failure(Exception):
    """Something could not be measured; the text says why."""


def wait_until(condition, what, seconds=PATIENCE_S):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"waited {seconds} s for {what}")
        time.sleep(0.005)


class Place:
    """A directory for one run, UNDER another one, and what was started in it. BIN: where bench's
    programs are."""

    def __init__(self, binaries, hangupd, under=None):
        self.bin = pathlib.Path(binaries).resolve()
        self.hangupd = str(pathlib.Path(hangupd).resolve())
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=under))
        self.dir.chmod(0o755)
        programs = self.dir / "www" / "cgi-bin"
        programs.mkdir(parents=True)
        for name in ("hello", "stream"):
            shutil.copy(self.bin / name, programs / name)
        self.program = str(programs / "hello")
        self.streaming = str(programs / "stream")
        self.started = []
        self.count = 0

    def fresh(self, name):
        """A new directory of its own."""
        self.count += 1
        path = self.dir / f"{name}.{self.count}"
        path.mkdir(mode=0o700)
        return path

    def start(self, argv, **how):
        with open(self.dir / f"{pathlib.Path(argv[0]).name}.log", "ab") as log:
            how.setdefault("stderr", log)
            process = subprocess.Popen(argv, stdin=how.pop("stdin", subprocess.DEVNULL),
                                       start_new_session=True, **how)
        self.started.append(process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)  # what a peer has left in its session
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        if process in self.started:
            self.started.remove(process)

    def close(self):
        for process in list(reversed(self.started)):
            self.stop(process)
        shutil.rmtree(self.dir)


class Server:
    def __init__(self, place, process, port, path, log=None):
        self.place, self.process, self.port, self.path, self.log = place, process, port, path, log
        self.helpers = []
        wait_until(self.is_listening, f"{process.args[0]} to listen")

    def is_listening(self):
        if self.process.poll() is not None:
            raise Failure(f"{' '.join(self.process.args)} ended: {self.last_words()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def last_words(self):
        name = self.log or self.place.dir / f"{pathlib.Path(self.process.args[0]).name}.log"
        lines = pathlib.Path(name).read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self):
        for process in [self.process] + self.helpers:
            self.place.stop(process)


# ---- hangupd, and the floor -----------------------------------------------------------------

# Every feature is on: the hangup watch always is, and so are the limits of time.
LIMITS = ["--per-client", "12000", "--idle-timeout", "1h", "--log", "text"]


def hangupd(place, *words, binary=None, state=None, requests=256, connections=4096, wait=True):
    state = state or place.fresh("state")
    log = state / "../" / f"{state.name}.log"
    argv = [binary or place.hangupd, "--listen", "127.0.0.1:0", "--state", str(state),
            "--requests", str(requests), "--connections", str(connections), *LIMITS, *words]
    with open(log, "ab") as out:
        begin = out.tell()
        process = place.start(argv, stderr=out, env=dict(os.environ, TMPDIR=str(place.dir)))
    port = []

    def is_ready():
        if process.poll() is not None:
            raise Failure(f"{' '.join(argv)} ended: {log.read_text(errors='replace')[-300:]}")
        with open(log, errors="replace") as text:
            text.seek(begin)
            port.extend(re.findall(r"listening on 127\.0\.0\.1:(\d+)", text.read()))
        return port

    wait_until(is_ready, "hangupd to listen")
    server = Server(place, process, int(port[0]), "/hello", log)
    server.state = state
    return server


def handlers(place, **how):
    return hangupd(place, binary=str(place.bin / "handlers"), **how)


def programs(place, **how):
    return hangupd(place, f"/hello={place.program}", f"/stream={place.streaming}", **how)


def that_says_its_port(place, argv, path):
    process = place.start(argv, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line.strip().isdigit():
        raise Failure(f"{argv[0]} did not say its port")
    return Server(place, process, int(line), path)


def floor(place):
    return that_says_its_port(place, [str(place.bin / "floor")], "/hello")


def floor_of_programs(place):
    return that_says_its_port(place, [str(place.bin / "floor"), place.program], "/hello")


# ---- Peers ----------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def configured(place, name, port):
    text = (HERE / name).read_text().replace("@DIR@", str(place.dir)).replace("@PORT@", str(port))
    path = place.dir / name
    path.write_text(text)
    return str(path)


def tool(name):
    path = shutil.which(name)
    if path is None:
        raise Failure(f"{name} is not installed")
    return path


def apache(place):
    port = free_port()
    conf = configured(place, "apache.conf", port)
    process = place.start([tool("apache2"), "-f", conf, "-DFOREGROUND"])
    return Server(place, process, port, "/cgi-bin/hello")


def lighttpd(place):
    port, binary = free_port(), tool("lighttpd")
    modules = pathlib.Path(binary).parent.parent / "lib" / "lighttpd"
    conf = configured(place, "lighttpd.conf", port)
    process = place.start([binary, "-D", "-f", conf, "-m", str(modules)])
    return Server(place, process, port, "/cgi-bin/hello")


def nginx(place):
    port = free_port()
    gateway = place.start([tool("fcgiwrap"), "-c", "16", "-s", f"unix:{place.dir}/fcgiwrap"])
    wait_until((place.dir / "fcgiwrap").exists, "fcgiwrap's socket")
    conf = configured(place, "nginx.conf", port)
    process = place.start([tool("nginx"), "-p", str(place.dir), "-c", conf,
                           "-e", f"{place.dir}/nginx.error.log"])
    server = Server(place, process, port, "/cgi-bin/hello")
    server.helpers.append(gateway)
    return server


def busybox(place):
    port = free_port()
    process = place.start([tool("busybox"), "httpd", "-f", "-p", f"127.0.0.1:{port}",
                           "-h", f"{place.dir}/www"])
    return Server(place, process, port, "/cgi-bin/hello")


def go(place, path="/hello"):
    return that_says_its_port(place, [str(place.bin / "peers"), place.program], path)


def go_cgi(place):
    return go(place, "/cgi")


def tcpserver(place):
    port = free_port()
    process = place.start([tool("tcpserver"), "-q", "-H", "-R", "-l", "0", "-c", "1000", "-b",
                           "1000", "127.0.0.1", str(port), place.program, "http"])
    return Server(place, process, port, "/")


# ---- The callers ----------------------------------------------------------------------------

def load(place, *words):
    """Run the load generator to its end: its output."""
    done = subprocess.run([str(place.bin / "load"), *map(str, words)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(done.stderr.strip())
    return done.stdout


def rate(place, server, how, seconds, callers=16):
    words = load(place, "rate", server.port, server.path, callers, how, seconds).split()
    return {name: float(value) for name, value in zip(words[::2], words[1::2])}


class Held:
    """Callers that wait until they are told to hang up."""

    def __init__(self, place, *words):
        self.place = place
        self.process = place.start([str(place.bin / "load"), *map(str, words)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.line() != "ready":
            self.process.wait()
            log = (place.dir / "load.log").read_text().splitlines()
            raise Failure(log[-1] if log else "the callers could not begin")

    def line(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        return self.process.stdout.readline().strip() if ready else ""

    def hang_up(self):
        """What they say after it."""
        self.process.stdin.close()
        said = self.line()
        self.place.stop(self.process)
        return said


# ---- Processes ------------------------------------------------------------------------------

def stat_fields(pid):
    """The fields of /proc/PID/stat from the state on: [1] is the parent."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return f.read().rpartition(b") ")[2].split()


def children(parent):
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if int(stat_fields(name)[1]) == parent:
                found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def descriptor_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def processor_s(pid):
    """Seconds used by PID and all its children that have ended."""
    return sum(map(int, stat_fields(pid)[11:15])) / TICKS


def running_s(pids):
    """Seconds used so far by these processes, without their children."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e9


def faults(pid):
    """Page faults of PID, and of all its children that have ended."""
    fields = stat_fields(pid)
    return int(fields[7]), int(fields[8])


def pss_kb(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Pss: +(\d+) kB", f.read(), re.M).group(1))


def kernel_kb():
    """What the kernel holds for processes, sockets and files; of the whole machine."""
    with open("/proc/meminfo") as f:
        values = dict(re.findall(r"^(\w+): +(\d+) kB", f.read(), re.M))
    return sum(int(values[name]) for name in ("KernelStack", "PageTables", "SUnreclaim"))


def quiet_load():
    """The load of the last minute, before anything was started."""
    return os.getloadavg()[0]


def warn(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)
