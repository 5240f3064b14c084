"""Captures that are not what they should be, and calls that nobody would make in good faith, through the installed command.

Whatever comes in: one line that says what is wrong with which file, the calls that are there, an exit status of the
contract, bounded time, memory and disk; never a traceback (`wire.run` sees to that).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from tests.e2e.bad_codecs import DEADLY, NAMES, call_in, install
from tests.e2e.wire import (
    ROKUON,
    SECOND,
    START,
    Phone,
    audio_seconds,
    calls,
    disk_use,
    identities,
    leftovers,
    merged,
    record,
    rtp,
    run,
    udp,
    write,
)
from tests.sniffer.captures import Packet, pcap

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

GOOD = merged(*(Phone(n, START + n * SECOND // 10, 2) for n in range(4)))
WHOLE = pcap(GOOD)
ZIPPED = gzip.compress(WHOLE, 1)
YEAR = 365 * 86400 * SECOND
MEMORY = 2 << 30
"""Of address space, libraries included, for what should take 100 MB."""


# -- files ---------------------------------------------------------------------
@pytest.mark.parametrize(("octets", "why"), [
    (b"", "empty file"), (b"no capture at all " * 9, "neither pcap nor pcapng"), (WHOLE[:13], "cut short inside the file header"),
    (ZIPPED[:12], "gzip data cut short"), (ZIPPED[:12] + bytes(range(256)), "gzip data damaged"),
    (WHOLE[:4] + b"\xff" * 200, "")], ids=["empty", "magic", "header", "gzip-cut", "gzip-damaged", "fields"])
def test_what_cannot_be_read_is_one_line(octets: bytes, why: str, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.pcap").write_bytes(octets)
    done = record(tmp_path / "data", bad)
    assert (done.returncode, done.stdout) == (1, "") or not why
    assert done.stderr.startswith("rokuon: ")
    assert f"{bad}: {why}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert calls(tmp_path / "data") == []
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize(("octets", "at_least"), [
    (WHOLE[:len(WHOLE) // 2 + 7], 405), (ZIPPED[:len(ZIPPED) // 2], 300),
    (ZIPPED[:len(ZIPPED) // 2] + b"\xff" * 100 + ZIPPED[len(ZIPPED) // 2 + 100:], 300),
    (WHOLE[:len(WHOLE) // 2] + b"\xff" * 400 + WHOLE[len(WHOLE) // 2 + 400:], 400)],
    ids=["cut", "gzip-cut", "gzip-damaged", "overwritten"])
def test_what_was_read_up_to_the_damage_is_kept(octets: bytes, at_least: int, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.pcap").write_bytes(octets)
    done = record(tmp_path / "data", bad)
    assert done.returncode == 0
    said = re.fullmatch(rf"rokuon: warning: {bad}: .+; read up to packet (\d+), byte [\d,]+\n", done.stderr)
    assert said, done.stderr
    assert int(said[1]) >= at_least
    found = calls(tmp_path / "data")
    assert [(call["state"], call["end_reason"]) for call in found] == [("answered", "capture-stopped")] * 4
    assert all(call["audio"] for call in found)


def test_an_absurd_length_is_said_not_believed(tmp_path: Path) -> None:
    octets = bytearray(WHOLE)
    struct.pack_into("<I", octets, 24 + 8, 0x7FFFFFFF)
    (bad := tmp_path / "bad.pcap").write_bytes(octets)
    done = record(tmp_path / "data", bad, memory=MEMORY)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "record of 2,147,483,647 bytes; read up to packet 0" in done.stderr
    assert "0 calls recorded" in done.stdout


def test_lengths_on_the_wire_mean_nothing(tmp_path: Path) -> None:
    record(tmp_path / "right", write(tmp_path / "right.pcap", GOOD))
    done = record(tmp_path / "data", write(tmp_path / "forged.pcap", [p._replace(wire=0xFFFFFFFF) for p in GOOD]), memory=MEMORY)
    assert done.returncode == 0
    assert identities(tmp_path / "data") == identities(tmp_path / "right")


@pytest.mark.parametrize("make", ["missing", "empty-directory", "without-captures", "unreadable"])
def test_nothing_to_read(make: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if make == "unreadable":
        if not os.geteuid():
            pytest.skip("root reads everything")
        path.write_bytes(WHOLE)
        path.chmod(0)
    elif make != "missing":
        path.mkdir()
        if make == "without-captures":
            (path / "notes.txt").write_text("nothing")
    done = record(tmp_path / "data", path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{path}: " in done.stderr


def test_a_capture_without_calls_is_no_failure(tmp_path: Path) -> None:
    done = record(tmp_path / "data", write(tmp_path / "c.pcap", [Packet(START, bytes(60), 60)]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 calls recorded, 1 packets read\n"


@pytest.mark.parametrize("snaplen", [60, 100, 200])
def test_packets_cut_by_the_capture_are_said(snaplen: int, tmp_path: Path) -> None:
    packets = [p._replace(data=p.data[:snaplen]) for p in GOOD]
    done = record(tmp_path / "data", write(tmp_path / "c.pcap", packets, snaplen=snaplen))
    cut = sum(len(p.data) > snaplen for p in GOOD)
    assert done.returncode == 0
    assert done.stderr.startswith(f"rokuon: warning: {tmp_path}/c.pcap: {cut} of 824 packets are not whole ")
    assert done.stderr.count("\n") == 1
    for call in calls(tmp_path / "data"):
        assert call["audio"]["duration_s"] <= 2.1
        assert all(stream["lost"] == 0 for stream in call["streams"])


# -- times ---------------------------------------------------------------------
@pytest.mark.parametrize("start", [0, 2_000_000_000 * SECOND, 4_102_444_800 * SECOND])
def test_other_centuries(start: int, tmp_path: Path) -> None:
    done = record(tmp_path / "data", write(tmp_path / "c.pcap", merged(*(Phone(n, start + n, 1) for n in range(2)))))
    assert (done.returncode, done.stderr) == (0, "")
    assert [round(call["audio"]["duration_s"]) for call in calls(tmp_path / "data")] == [1, 1]


def shifted(packets: list[Packet], by: object) -> list[Packet]:
    assert callable(by)
    return [p._replace(time_ns=by(n, p.time_ns)) for n, p in enumerate(packets)]


FORGED = {
    "backwards": lambda n, _: START + (len(GOOD) - n) * SECOND,
    "a-day-each": lambda n, _: START + n * 86400 * SECOND,
    "one-a-year-later": lambda n, t: t + YEAR * (n == 400),
    "one-in-1970": lambda n, t: 1000 if n == 400 else t,
    "the-rest-a-year-later": lambda n, t: t + YEAR * (n > 400),
    "the-rest-a-year-before": lambda n, t: t - YEAR * (n > 400),
    "anything": lambda n, _: random.Random(n).getrandbits(32) * SECOND,
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_times_make_no_sound(name: str, tmp_path: Path) -> None:
    done = record(tmp_path / "data", write(tmp_path / "c.pcap", shifted(GOOD, FORGED[name])), memory=MEMORY)
    assert done.returncode == 0, done.stderr
    assert audio_seconds(tmp_path / "data") <= 900
    assert disk_use(tmp_path / "data") < 20 << 20
    if name.startswith("one-"):
        found = calls(tmp_path / "data")
        assert [(call["state"], call["end_reason"]) for call in found] == [("answered", "bye")] * 4
        assert sum(stream["packets"] for call in found for stream in call["streams"]) >= 700


@pytest.mark.parametrize("apart", [9, 60, 500])
def test_hours_of_next_to_nothing_are_not_written_as_silence(apart: int, tmp_path: Path) -> None:
    """2,000 packets far apart: each is kept in its place, the silence between them is not."""
    capture = write(tmp_path / "c.pcap", Phone(1, START, 20, packet_ns=apart * SECOND).packets)
    done = record(tmp_path / "data", capture, memory=MEMORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert disk_use(tmp_path / "data") < 120 << 20
    call, = calls(tmp_path / "data")
    assert sum(stream["packets"] for stream in call["streams"]) == 2000
    files = [call["audio"], *call["parts"]]
    assert len(files) <= 60
    begins = [(when(f["start"]), float(f["duration_s"])) for f in files]
    assert all(begin + lasts <= after + 0.001 for (begin, lasts), (after, _) in pairwise(begins))


def test_an_hour_of_silence_in_a_call_with_talk_is_kept(tmp_path: Path) -> None:
    """What people do: talk, a long pause (hold without music), and talk again."""
    phone = Phone(1, START, 30, ends=False)
    for n in range(1500):
        phone.media(START + 540 * SECOND + n * SECOND // 50, n % 2 == 0, 1500 + n)
    done = record(tmp_path / "data", write(tmp_path / "c.pcap", phone.packets))
    assert done.returncode == 0
    call, = calls(tmp_path / "data")
    assert call["parts"] == []
    assert round(call["audio"]["duration_s"]) == 570


def when(text: str) -> float:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromisoformat(text).timestamp()


# -- codecs of others ----------------------------------------------------------
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which bad codecs are found."""
    return install(tmp_path_factory.mktemp("site"))


def mixed(codec: str) -> list[Packet]:
    """A call of this codec among others."""
    return merged(*(Phone(n, START + n * SECOND // 10, 1) for n in range(6)), call_in(codec, 9, START + SECOND // 3))


@pytest.mark.parametrize(("name", "jobs"), [(name, 2) for name in NAMES] + [("Raises", 1), ("Crashes", 1)])
def test_a_codec_gone_astray_costs_its_own_call_at_most(name: str, jobs: int, site: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = record(data, write(tmp_path / "c.pcap", mixed(name)), jobs=jobs, env=site)
    found = calls(data)
    assert leftovers(data) == []
    plain = [call for call in found if call["streams"][0]["codec"] == "PCMU"]
    assert len(plain) == 6
    assert all(round(call["audio"]["duration_s"]) == 1 for call in plain)
    if name in DEADLY:
        assert done.returncode == 1
        assert len(found) == 6
        said = re.fullmatch(r"rokuon: warning: call (\S+) could not be finalised and is in quarantine: (.*)\n", done.stderr)
        assert said, done.stderr
        assert said[2] == f"ended the finaliser 2 times ({DEADLY[name]})"
        facts = json.loads((data / "quarantine" / f"{said[1]}.json").read_text())
        assert facts["quarantine_reason"] == said[2]
        assert "quarantined" in run(data, "stats").stdout
        # Its packets are there: without the codec they are a call that can be listed.
        again = record(tmp_path / "again", data / "quarantine" / f"{said[1]}.pcap")
        assert again.returncode == 0
        assert [sum(s["packets"] for s in call["streams"]) for call in calls(tmp_path / "again")] == [100]
    else:
        assert (done.returncode, done.stderr) == (0, "")
        call, = (call for call in found if call["streams"][0]["codec"] != "PCMU")
        assert call["anomalies"]["broken-payloads"] > 0


# -- text ----------------------------------------------------------------------
NASTY = {
    "escape": b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5n", "path": b"../../../../etc/passwd", "nul": b"a\x00b",
    "utf8": b"\xff\xfe\xc3\x28\xed\xa0\x80", "long": b"A" * 60_000, "formula": b"=cmd|' /C calc'!A0",
    "html": b"<script>alert(1)</script>", "sql": b"'); DROP TABLE calls;--", "bidi": "\u202egnp.exe\u2066".encode(),
    "json": b'","id":"x', "format": b"{0.__class__} %s %n [bold]x[/bold]", "newline": b"a\rb", "at": b"@SUM(1)",
    "plus": b"+1+cmd", "minus": b"-1+1", "tab": b"\t=1",
}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def hostile() -> list[Packet]:
    phones = []
    for n, text in enumerate(NASTY.values()):
        quoted = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        user = text.replace(b">", b"").replace(b"@", b"").replace(b";", b"")[:10_000]
        phones.append(Phone(n, START + n * SECOND, 0.2, from_=b'"%b" <sip:%b@example.com>' % (quoted[:20_000], user),
                            to=b"<sip:%b@example.com>" % user[:10_000], call_id=text[:10_000],
                            tag=text.replace(b";", b"")[:5_000],
                            headers=[b"Subject: " + text[:3_000], b"User-Agent: " + text[:3_000]]))
    return merged(*phones)


def test_hostile_text_is_harmless_everywhere(tmp_path: Path) -> None:
    data = tmp_path / "inside" / "data"
    done = record(data, write(tmp_path / "c.pcap", hostile()))
    assert done.returncode == 0, done.stderr
    assert not CONTROL.search(done.stdout + done.stderr)
    found = calls(data)
    assert len(found) >= len(NASTY) - 3, "a Call-ID with control characters may not be one"
    shows = [["show", call["id"]] for call in found[::2]] + [["show", call["id"], "--json"] for call in found[::8]]
    for arguments in (["calls"], ["calls", "--json"], ["calls", "--jsonl"], ["calls", "--csv"], ["stats"], *shows):
        shown = run(data, *arguments)
        assert shown.returncode == 0, (arguments, shown.stderr)
        assert not CONTROL.search(shown.stdout), arguments
        assert len(shown.stdout) < 1_000_000
    table = list(csv.reader(io.StringIO(run(data, "calls", "--csv").stdout)))
    number = re.compile(r"[-+]?[\d.,]+|\+\d+")
    assert not [cell for row in table for cell in row if cell[:1] in tuple("=+-@\t\r") and not number.fullmatch(cell)]
    outside = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert outside == {"inside", "c.pcap"}
    for path in data.rglob("*"):
        assert re.fullmatch(r"\.?[0-9A-Za-z.-]+", path.name), path
        assert not path.is_file() or path.suffix != ".json" or path.stat().st_size < 400_000, path
    assert run(data, "reindex").returncode == 0
    assert len(calls(data)) == len(found)


# -- floods --------------------------------------------------------------------
PHONES = [Phone(n, START + n * SECOND // 10, 2) for n in range(20)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    directory = tmp_path_factory.mktemp("alone")
    record(directory / "data", write(directory / "c.pcap", merged(*PHONES)))
    return identities(directory / "data")


@pytest.mark.parametrize("flows", [1, 500, 20_000])
def test_a_flood_of_new_ssrcs_hurts_no_call(flows: int, alone: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    """20,000 packets in a fifth of a second, each with an SSRC of its own."""
    rng = random.Random(flows)
    flood = []
    for n in range(20_000):
        flow = n % flows
        source = (f"172.16.{flow // 250 % 250}.{flow % 250 + 1}", 1024 + flow // 62_500)
        data = udp(source, ("172.17.0.1", 5004), rtp(1, rng.getrandbits(32), b"x" * 20))
        flood.append(Packet(START + SECOND + n * 10_000, data, len(data)))
    capture = write(tmp_path / "c.pcap", sorted([*merged(*PHONES), *flood], key=lambda p: p.time_ns))
    done = record(tmp_path / "data", capture, memory=MEMORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert identities(tmp_path / "data") == alone


def test_a_flood_of_invites_hurts_no_call(alone: dict[str, tuple[object, ...]], tmp_path: Path) -> None:
    flood = [Phone(1000 + n, START + SECOND // 2 + n * 400_000, voice=False, ends=False, call_id=b"flood-%d" % n).packets[0]
             for n in range(2_500)]
    capture = write(tmp_path / "c.pcap", sorted([*merged(*PHONES), *flood], key=lambda p: p.time_ns))
    done = record(tmp_path / "data", capture, memory=MEMORY)
    assert (done.returncode, done.stderr) == (0, "")
    answered = json.loads(run(tmp_path / "data", "calls", "--state", "answered", "--json").stdout)
    assert {call["id"]: call["audio"]["sha256"] for call in answered} == {known: facts[2] for known, facts in alone.items()}
