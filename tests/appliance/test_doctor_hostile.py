"""Whatever is on the wire, the doctor judges it: no exception, no terminal escape, JSON that can be read."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.properties.test_damage import WELL, damaged
from tests.sniffer.batches import T0, batch, cut, rtp, udp
from tests.sniffer.captures import Packet, pcap

from rokuon.appliance.doctor.evidence import Examiner
from rokuon.appliance.doctor.examine import examine_files, judge
from rokuon.appliance.doctor.finding import Report
from rokuon.cli import main
from rokuon.sniffer.pcap_file import CaptureError
from rokuon.store.settings import Settings

PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"
SHARED = sorted((Path(__file__).resolve().parents[3] / "shared" / "captures").rglob("*.pcap*"))
PORTS = [4789, 8472, 6081, 2152, 37008, 4500, 5060, 5061, 2427, 4569, 40_000]
PROTOCOLS = [4, 6, 17, 41, 47, 50, 115]
ETHERTYPES = [0x8847, 0x8848, 0x8864, 0x8100, 0x0800, 0x86DD, 0x88E5]
BEGINNINGS = [b"\x08\0\0\0\0\0\0\0", b"\x80\xc9\x00\x07", b"SIP/2.0 ", b"\x30\xff\0\1\0\0\0\0", b"\x80\0"]
LINKS = [0, 1, 101, 108, 113, 228, 229, 276, 9999]


def sound(report: Report) -> None:
    told = json.loads(json.dumps(report.json(), allow_nan=False))
    assert told["verdict"] in ("complete", "incomplete")
    assert all(f["level"] in ("ok", "note", "warning", "problem") for f in told["findings"])
    assert len(json.dumps(told)) < 100_000


def look(packets: Sequence[Packet], cuts: Sequence[int] = ()) -> Report:
    examiner = Examiner(Settings(), b"\x02\0\0\0\0\x01")
    for some in cut(packets, cuts):
        examiner.look(batch(some))
    return judge(examiner.finish(), "noise")


def strange(rng: random.Random) -> bytes:
    """A frame that leads into some reader, and then something else."""
    inner = rng.randbytes(rng.choice([0, 1, 4, 8, 11, 20, 40, 60, 200]))
    ip = bytes([0x40 | rng.choice([5, 5, 5, 0, 6, 15]), 0]) + rng.randbytes(6) + bytes([64, rng.choice(PROTOCOLS)])
    ip += rng.randbytes(10)
    return rng.choice([
        lambda: inner,
        lambda: rng.randbytes(12) + struct.pack(">H", rng.choice(ETHERTYPES)) + inner,
        lambda: rng.randbytes(12) + b"\x08\x00" + ip + inner,
        lambda: rng.randbytes(12) + b"\x08\x00" + ip[:9] + b"\x2f" + ip[10:20] + struct.pack(
            ">HH", rng.getrandbits(16) & 0xF007, rng.choice([0x0800, 0x86DD, 0x88BE, 0x22EB, 0x6558])) + inner,
        lambda: rng.randbytes(12) + b"\x86\xdd\x60" + rng.randbytes(5) + bytes([rng.choice([0, 4, 6, 17, 43, 44, 47, 60])])
        + rng.randbytes(33) + inner,
        lambda: udp(rng.choice(BEGINNINGS) + inner, ("10.0.0.1", rng.choice(PORTS)),
                    ("10.0.0.2", rng.choice(PORTS)), vlans=[5] * rng.choice([0, 0, 1, 4, 5])),
    ])()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.lists(st.integers(0, 60), max_size=4))
def test_frames_of_any_kind(seed: int, cuts: list[int]) -> None:
    rng = random.Random(seed)
    packets = []
    for _ in range(60):
        data = strange(rng)
        data = data[:rng.randrange(len(data) + 1)] if rng.random() < 0.2 else data
        packets.append(Packet(T0 + rng.randrange(1 << rng.choice([10, 30, 40])), data, len(data) + rng.choice([0, 0, 4, 2000]),
                              rng.choice([1, 1, 1, 1, *LINKS]), rng.choice([0, 0, 255])))
    sound(look(packets, cuts))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged(WELL))
def test_damaged_calls(tmp_path_factory: pytest.TempPathFactory, packets: list[Packet]) -> None:
    path = tmp_path_factory.mktemp("damaged") / "c.pcap"
    path.write_bytes(pcap(packets))
    sound(examine_files([str(path)], Settings()))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["doctor-erspan", "doctor-tls", "doctor-srtp", "tcp-segments", "doctor-two-vlans"]))
    octets = bytearray((PCAPS / f"{name}.pcap").read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "c.pcap"
    path.write_bytes(octets[:data.draw(st.integers(1, len(octets)))])
    with suppress(CaptureError):
        sound(examine_files([str(path)], Settings()))


@pytest.mark.skipif(not SHARED, reason="../shared/captures is not here")
def test_other_peoples_captures() -> None:
    for path in [path for path in SHARED if path.stat().st_size < 4 << 20][:60]:
        with suppress(CaptureError):
            sound(examine_files([str(path)], Settings()))


def test_names_from_the_network_are_harmless(tmp_path: Path) -> None:
    """A codec's name, which the text quotes."""
    body = ("v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 96\r\n"
            "a=rtpmap:96 $(reboot)`x`!/8000\r\n")
    head = ("INVITE sip:b@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nFrom: \x1b[31m<sip:a@x>;tag=1\r\n"
            f"To: <sip:b@x>\r\nCall-ID: c\x1b]0;x\x07\r\nCSeq: 1 INVITE\r\nContent-Length: {len(body)}\r\n\r\n")
    frames = [udp((head + body).encode(), ("10.0.0.1", 5060), ("10.0.0.2", 5060))]
    frames += [udp(rtp(9, n, kind=96), ("10.0.0.2", 6000), ("10.0.0.1", 4000)) for n in range(90)]
    path = tmp_path / "\x1b[31mc.pcap"
    path.write_bytes(pcap([Packet(T0 + n * 20_000_000, f, len(f)) for n, f in enumerate(frames)]))
    shown = CliRunner().invoke(main, ["doctor", "-r", str(path)], env={"ROKUON_CONFIG": None})
    assert (shown.exit_code, shown.exception and type(shown.exception)) == (1, SystemExit)
    assert not set(shown.output) & set(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))
