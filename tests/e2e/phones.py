"""An office for tests: a switch with a mirror port, phones that others wrote (baresip, SIPp), and recorders that listen.

Everything lives in network namespaces made here, one for the switch and one for each phone, which nothing leaves.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.wire import ROKUON
from tests.sniffer.captures import Packet
from tests.sniffer.wires import CLONE_NEWNET, ip, missing, own_network, wire

MODULES = Path("/usr/lib/baresip/modules")
MIRROR = "mirror"
WAIT_S = 20
Json = dict[str, Any]


def why_not(*programs: str) -> str:
    """Why there can be no such office here; "" where there can."""
    if reason := missing():
        return reason
    for program in ("tc", "nsenter", *programs):
        if shutil.which(program) is None:
            return f"no {program} here"
    if "baresip" in programs and not (MODULES / "ctrl_tcp.so").exists():
        return "this baresip has its modules elsewhere"
    try:
        with own_network():
            wire("port", "phone")
            mirror("port", "port")
    except subprocess.CalledProcessError as error:
        return f"no mirror here: {error.stderr.decode(errors='replace').strip()}"
    return ""


def mirror(port: str, target: str) -> None:
    """All that goes in at a switch's port, and all that comes out of it, is sent to `target` as well (tc-mirred(8))."""
    subprocess.run(["tc", "qdisc", "add", "dev", port, "clsact"], check=True, capture_output=True)
    for way in ("ingress", "egress"):
        subprocess.run(["tc", "filter", "add", "dev", port, way, "protocol", "all", "prio", "1", "u32", "match", "u32", "0", "0",
                        "action", "mirred", "egress", "mirror", "dev", target], check=True, capture_output=True)


class Line:
    """A phone's place: a network namespace with one address, on a port of the switch."""

    def __init__(self, number: int, mirrored: bool) -> None:
        """In the switch's namespace. `mirrored`: what passes its port is seen at the mirror port."""
        self.address = f"10.9.0.{number}"
        with own_network():
            self._holder = subprocess.Popen(["sleep", "infinity"])
        port, phone = f"port{number}", f"phone{number}"
        wire(port, phone)
        ip(f"link set {port} master switch")
        ip(f"link set {phone} netns {self._holder.pid}")
        for command in ("link set lo up", f"addr add {self.address}/24 dev {phone}", f"link set {phone} up"):
            subprocess.run([*self.prefix, "ip", *command.split()], check=True)
        if mirrored:
            mirror(port, "span")

    @property
    def prefix(self) -> list[str]:
        """A command after these words is run at this place."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def connect(self, port: int) -> socket.socket:
        """A TCP connection within the place, over its loopback."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        here, there = (os.open(f"/proc/{p}/ns/net", os.O_RDONLY | os.O_CLOEXEC) for p in ("thread-self", self._holder.pid))
        try:
            if setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            for _ in range(100):
                try:
                    return socket.create_connection(("127.0.0.1", port), WAIT_S)
                except ConnectionRefusedError:  # it is starting
                    time.sleep(0.05)
            raise TimeoutError("nobody listens")
        finally:
            setns(here, CLONE_NEWNET)
            os.close(here)
            os.close(there)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextmanager
def office(mirrored: int, others: int) -> Iterator[list[Line]]:
    """A switch with so many lines whose ports are mirrored and others behind them; its mirror port is the interface MIRROR."""
    with own_network():
        ip("link add name switch type bridge mcast_snooping 0")
        ip("link set switch up")
        wire("span", MIRROR)
        lines: list[Line] = []
        try:
            for number in range(mirrored + others):
                lines.append(Line(number + 1, number < mirrored))
            yield lines
        finally:
            for line in lines:
                line.close()


class Codec(NamedTuple):
    """What a phone speaks."""

    words: str
    """As baresip has it in `audio_codecs`."""
    module: str
    rate: int
    """Of what is heard, in Hz."""


class Phone:
    """A baresip without screen and sound card: it says a tone, and is driven over its ctrl_tcp."""

    def __init__(self, line: Line, directory: Path, user: str, tone: int, codec: Codec) -> None:
        """tone: in Hz."""
        self.user, self.tone, self.uri = user, tone, f"sip:{user}@{line.address}"
        directory.mkdir()
        modules = (codec.module, "ausine.so", "aubridge.so")
        (directory / "config").write_text("\n".join([
            f"sip_listen {line.address}:5060", "audio_path /nonexistent", f"audio_source ausine,{tone}",
            "audio_player aubridge,nobody", "audio_alert aubridge,nobody", "ausrc_srate 48000", "ausrc_channels 2",
            "rtp_stats yes", "ringback_disabled yes", f"module_path {MODULES}", *(f"module {name}" for name in modules),
            "module_tmp account.so", "module_app menu.so", "module_app ctrl_tcp.so", "ctrl_tcp_listen 127.0.0.1:4444", ""]))
        (directory / "accounts").write_text(
            f'"{user.title()}" <{self.uri}>;regint=0;answermode=manual;audio_codecs={codec.words}\n')
        self._log = directory / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen([*line.prefix, "baresip", "-f", directory], stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, env={**os.environ, "HOME": str(directory)})
        self._socket = line.connect(4444)
        self._unread = b""
        self.events: list[str] = []

    def do(self, command: str, parameters: str = "") -> None:
        """A command of baresip's menu."""
        text = json.dumps({"command": command, "params": parameters, "token": ""}).encode()
        self._socket.sendall(b"%d:%b," % (len(text), text))  # a netstring

    def wait(self, event: str) -> None:
        """Until this happens, if it has not since the last wait; what happened before it is forgotten."""
        deadline = time.monotonic() + WAIT_S
        while event not in self.events:
            left = deadline - time.monotonic()
            assert left > 0, f"{self.user} waits for {event}: {self._log.read_text(errors='replace')[-2000:]}"
            self._socket.settimeout(left)
            try:
                octets = self._socket.recv(65536)
            except TimeoutError:
                continue
            assert octets, f"{self.user} is gone: {self._log.read_text(errors='replace')[-2000:]}"
            self._unread += octets
            while match := re.match(rb"(\d+):", self._unread):
                end = match.end() + int(match[1])
                if len(self._unread) <= end:
                    break
                message = json.loads(self._unread[match.end():end])
                self._unread = self._unread[end + 1:]
                if message.get("event"):
                    self.events.append(message["type"])
        del self.events[:self.events.index(event) + 1]

    def close(self) -> list[tuple[int, int]]:
        """Ends it, if it has not ended. Returns of each call with media the packets sent and received, by its own count."""
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        log = self._log.read_text(errors="replace")
        return [(int(sent), int(received)) for sent, received in re.findall(r"^packets:\s+(\d+)\s+(\d+)", log, re.MULTILINE)]


@contextmanager
def tcpdump(interface: str, path: Path) -> Iterator[None]:
    """All packets of the interface are in the file afterwards."""
    command = ["tcpdump", "-i", interface, "-n", "-U", "--immediate-mode", "-s", "4096", "-B", "16384",
               "-Z", "root", "-w", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert any("listening" in line for line in iter(process.stderr.readline, ""))
            yield
            time.sleep(0.5)  # it has no way to say that it has seen everything
        finally:
            process.send_signal(signal.SIGINT)


@contextmanager
def recorder(data: Path, *interfaces: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None,
             waits_for: Sequence[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`rokuon record -i`, taking packets from these interfaces at least (None: all); `stop` tells how it ends."""
    wanted = [part for interface in interfaces for part in ("-i", interface)]
    others = bound_sockets()
    with subprocess.Popen([ROKUON, *options, "--data", data, "record", *wanted], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}) as process:
        try:
            wait_for_capture(process, interfaces if waits_for is None else waits_for, others)
            yield process
        finally:
            process.kill()


def wait_for_capture(process: subprocess.Popen[str], interfaces: Sequence[str],
                     others: Set[tuple[str, str]] = frozenset()) -> None:
    """Until there are packet sockets on all of the interfaces that are none of the others, and somebody waits for packets."""
    wanted = {str(socket.if_nametoindex(name)) for name in interfaces}
    deadline = time.monotonic() + WAIT_S
    found: set[tuple[str, str]] = set()
    while True:
        before, found = found, {(interface, inode) for interface, inode in bound_sockets() - others if somebody_waits(inode)}
        if wanted <= {interface for interface, _ in found & before}:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nobody captures"
        time.sleep(0.1)


def bound_sockets() -> set[tuple[str, str]]:
    """Packet sockets of this namespace (packet(7)): the number of the interface, and the socket's own."""
    rows = [line.split() for line in Path("/proc/thread-self/net/packet").read_text("ascii").splitlines()[1:]]
    return {(row[4], row[8]) for row in rows}


def somebody_waits(inode: str) -> bool:
    """Whether a process that has the socket is waiting in poll(2): libpcap lets nothing through while it sets one up."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(fd) == f"socket:[{inode}]" for fd in (process / "fd").iterdir()):
                return any("poll" in (task / "wchan").read_text() for task in (process / "task").iterdir())
    return False


def play(interface: str, packets: Sequence[Packet]) -> None:
    """Sends them at one end of a wire, at the pace of their times."""
    play_all([(interface, packets)])


def play_all(wires: Sequence[tuple[str, Sequence[Packet]]]) -> None:
    """The same on several wires at a time."""
    everything = sorted((packet.time_ns, number, packet.data) for number, (_, packets) in enumerate(wires) for packet in packets)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) for _ in wires]
        for out, (interface, _) in zip(sockets, wires, strict=True):
            out.bind((interface, 0))
        begun, first = time.monotonic_ns(), everything[0][0]
        for time_ns, number, data in everything:
            time.sleep(max(0, time_ns - first - (time.monotonic_ns() - begun)) / 1e9)
            sockets[number].send(data)


def stop(process: subprocess.Popen[str], timeout: float = 40) -> tuple[int, str, str]:
    """Ends a recorder as an init system does. Returns exit status and what it said on standard output and error."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def kill_all(process: subprocess.Popen[str]) -> None:
    """Ends a recorder and all its processes at once, as power loss does."""
    process.send_signal(signal.SIGSTOP)  # else it would start them again
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [process.pid]
    for parent in found:
        found += parents.get(parent, [])
    for pid in reversed(found):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def tshark_streams(capture: Path) -> dict[tuple[str, str, int], Counter[int]]:
    """RTP as tshark sees it: source and destination as in sidecars, SSRC → how often each sequence number was there."""
    fields = [part for name in ("ip.src", "udp.srcport", "ip.dst", "udp.dstport", "rtp.ssrc", "rtp.seq") for part in ("-e", name)]
    command = ["tshark", "-r", str(capture), "-Y", "rtp and not icmp", "-T", "fields", *fields]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    streams: dict[tuple[str, str, int], Counter[int]] = {}
    for line in done.stdout.splitlines():
        src, sport, dst, dport, ssrc, number = line.split("\t")
        streams.setdefault((f"{src}:{sport}", f"{dst}:{dport}", int(ssrc, 0)), Counter())[int(number)] += 1
    return streams


class Sipp:
    """A SIPp at a line, in a directory of its own."""

    def __init__(self, line: Line, directory: Path, *arguments: object, media_port: int = 6000) -> None:
        directory.mkdir()
        self._statistics = directory / "statistics.csv"
        command = [*line.prefix, "sipp", "-i", line.address, "-mi", line.address, "-mp", str(media_port), "-nostdin",
                   "-trace_stat", "-stf", str(self._statistics), "-fd", "1", *map(str, arguments)]
        with open(directory / "log", "wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)

    def done(self) -> tuple[int, int, int]:
        """Waits for its end. Returns exit status, successful and failed calls, by its own count."""
        status = self._process.wait(WAIT_S)
        with open(self._statistics, newline="") as file:
            *_, last = csv.DictReader(file, delimiter=";")
        return status, int(last["SuccessfulCall(C)"]), int(last["FailedCall(C)"])

    def close(self) -> None:
        """Ends it, whatever it is at."""
        self._process.kill()
        self._process.wait()
