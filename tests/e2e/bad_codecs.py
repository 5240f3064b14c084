"""A distribution of codecs that misbehave, for tests to install into a directory of their own."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.wire import Phone

SOURCE = '''
import os, signal, time
import numpy as np
from rokuon.decoders.api import PacketDecoder

class Raises(PacketDecoder):
    def decode(self, payload): raise KeyError("\\x1b[31mno")

class Rubbish(PacketDecoder):
    def decode_run(self, data, offsets, lengths): return "sound", None
    def durations(self, data, offsets, lengths): return [1]
    def decode(self, payload): return None

class Crashes(PacketDecoder):
    def decode(self, payload): os.kill(os.getpid(), signal.SIGSEGV)

class Exits(PacketDecoder):
    def decode(self, payload): os._exit(0)

class Loops(PacketDecoder):
    def decode(self, payload):
        while True: pass

class Eats(PacketDecoder):
    def decode(self, payload): return np.ones(1 << 33, np.int16)

class Hoards(PacketDecoder):
    kept = []
    def decode(self, payload):
        self.kept.append(np.empty(1 << 28, np.uint8))
        return np.zeros(160, np.int16)

class Starves(PacketDecoder):
    kept, size = [], 1 << 28
    def decode(self, payload):
        while self.size >= 1 << 12:
            try: self.kept.append(np.empty(self.size, np.uint8))
            except MemoryError: Starves.size //= 2
        return np.zeros(160, np.int16)
'''
BROKEN = ("Raises", "Rubbish", "Eats", "Hoards")
"""These can be told from sound: the call is recorded without it."""
DEADLY = {"Crashes": "SIGSEGV", "Exits": "exit 0", "Loops": "took too long"}
"""These end the process that they run in; and what is said of it."""
NAMES = (*BROKEN, *DEADLY)
STARVES = "Starves"
"""Keeps memory until there is not a page left: its call may be recorded or not, but no other may miss it."""
LIMIT_S = 0.5
_LIMIT = f"import rokuon.store.finaliser\nrokuon.store.finaliser._JOB_S = {LIMIT_S}\n"
"""Nobody wants to wait a minute for a codec that loops: read by each Python that has the directory on its path."""


def install(site: Path) -> dict[str, str]:
    """Puts the distribution into the directory. Returns the environment in which it is found."""
    (site / "bad_codecs.py").write_text(SOURCE)
    (site / "sitecustomize.py").write_text(_LIMIT)
    info = site / "bad_codecs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-codecs\nVersion: 1\n")
    points = "".join(f"X-{name.upper()} = bad_codecs:{name}\n" for name in (*NAMES, STARVES))
    (info / "entry_points.txt").write_text("[rokuon.decoders]\n" + points)
    return {"PYTHONPATH": str(site)}


def call_in(name: str, number: int, start_ns: int, seconds: float = 1.0) -> Phone:
    """A call in one of these codecs."""
    maps = b"a=rtpmap:96 X-%b/8000\r\n" % name.upper().encode()
    return Phone(number, start_ns, seconds, codec=b"96", maps=maps, from_=b"<sip:%b@example.com>" % name.lower().encode())
