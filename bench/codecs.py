"""How well and how fast rokuon decodes: signal-to-noise ratio and lag against ffmpeg's decoders, audio per CPU second.

    python bench/codecs.py [PCAP...]

Always: made-up speech, coded by ffmpeg. With capture files: each of their RTP streams of a codec that ffmpeg decodes too
(tshark takes them apart). Needs ffmpeg; the functions here serve the tests as oracles as well.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import Bytes, Decoder, DecoderUnavailable, Lengths, Offsets, PayloadFormat, Samples
from rokuon.decoders.opus import packet_duration_48k
from rokuon.decoders.registry import open_decoder

STATIC = {0: PayloadFormat("PCMU", 8000), 8: PayloadFormat("PCMA", 8000), 9: PayloadFormat("G722", 8000)}
OPUS = PayloadFormat("opus", 48000, 2)
RAW = {"PCMU": ("mulaw", 8000), "PCMA": ("alaw", 8000), "G722": ("g722", 16000), "L16": ("s16be", 8000)}
"""ffmpeg's name of the headerless format, and the sampling rate of its audio."""


def rows(payloads: list[bytes]) -> tuple[Bytes, Offsets, Lengths]:
    """The payloads in the form that decoders take."""
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def run(decoder: Decoder, payloads: list[bytes]) -> Samples:
    """All samples of the payloads."""
    return decoder.decode_run(*rows(payloads))[0]


def speech(rate: int, seconds: float) -> Samples:
    """Something with the properties of speech: harmonics that glide under moving formants, syllables, pauses, hiss."""
    t = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
    voiced = np.zeros(len(t))
    for k in range(1, int(min(rate / 2, 7000) / 160)):
        formants = sum(np.exp(-((150 * k - f) / 250) ** 2) for f in (600 + 250 * np.sin(3 * t), 1700 + 500 * np.sin(2 * t), 3000))
        voiced += (formants + 0.02) * np.sin(k * phase)
    hiss = np.random.default_rng(1).standard_normal(len(t))
    syllable, sibilant = np.clip(np.sin(2 * np.pi * 2.3 * t), 0, 1), np.clip(np.sin(2 * np.pi * 1.1 * t + 2), 0, 1) ** 4
    pause = np.sin(2 * np.pi * 0.2 * t) > -0.8
    made: NDArray[np.float64] = 4000 * pause * (voiced * syllable + 0.5 * hiss * sibilant) + 3 * hiss
    return np.clip(made, -32768, 32767).astype(np.int16)


def ffmpeg(arguments: list[str], content: bytes) -> bytes:
    """What ffmpeg makes of `content` with these arguments, from pipe to pipe."""
    done = subprocess.run(["ffmpeg", "-hide_banner", "-loglevel", "error", *arguments], input=content, capture_output=True,
                          check=True)
    return done.stdout


def encode(encoding: str, samples: Samples, octets: int) -> list[bytes]:
    """Payloads of so many bytes each, coded by ffmpeg."""
    form, rate = RAW[encoding]
    coded = ffmpeg(["-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "-", "-f", form, "-"], samples.tobytes())
    return [coded[i:i + octets] for i in range(0, len(coded) - octets + 1, octets)]


def encode_opus(samples: Samples, options: list[str]) -> list[bytes]:
    """Opus packets of 48 kHz audio, coded by libopus in ffmpeg."""
    ogg = ffmpeg(["-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "-", "-c:a", "libopus", *options, "-f", "ogg", "-"],
                 samples.tobytes())
    packets, open_packet, at = [], b"", 0
    while at < len(ogg):  # RFC 3533 section 6: a page is a header, a table of segment lengths, the segments
        sizes = ogg[at + 27:at + 27 + ogg[at + 26]]
        at += 27 + len(sizes)
        for size in sizes:
            open_packet += ogg[at:at + size]
            at += size
            if size < 255:
                packets.append(open_packet)
                open_packet = b""
    return packets[2:]  # OpusHead, OpusTags


def ogg_opus(packets: list[bytes], channels: int = 1) -> bytes:
    """An Ogg Opus file (RFC 7845) of these packets, a page each, nothing skipped at its beginning."""
    table = np.arange(256, dtype=np.uint32) << np.uint32(24)
    for _ in range(8):
        table = (table << np.uint32(1)) ^ np.where(table >> np.uint32(31), np.uint32(0x04C11DB7), np.uint32(0))
    crcs: list[int] = table.tolist()
    head = b"OpusHead" + bytes([1, channels, 0, 0]) + (48000).to_bytes(4, "little") + b"\0\0\0"
    pages, ticks = [], 0
    for number, packet in enumerate([head, b"OpusTags" + bytes(8), *packets]):
        ticks += packet_duration_48k(packet) if number > 1 else 0
        kind = 2 if not number else 4 if number == len(packets) + 1 else 0
        laces = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        page = bytearray(b"OggS\0" + bytes([kind]) + ticks.to_bytes(8, "little") + b"\1\0\0\0" + number.to_bytes(4, "little")
                         + bytes(4) + bytes([len(laces)]) + laces + packet)
        crc = 0
        for byte in page:
            crc = (crc << 8 & 0xFFFFFFFF) ^ crcs[crc >> 24 ^ byte]
        page[22:26] = crc.to_bytes(4, "little")
        pages.append(bytes(page))
    return b"".join(pages)


def reference(format: PayloadFormat, payloads: list[bytes], decoder: str = "opus") -> Samples:
    """The same payloads decoded by ffmpeg, Opus with its own decoder ("opus") or with libopus."""
    if format.encoding == "opus":
        made = ffmpeg(["-c:a", decoder, "-i", "-", "-ac", "1", "-f", "s16le", "-"], ogg_opus(payloads))
    else:
        form, rate = RAW[format.encoding]
        given = [] if form == "g722" else ["-ar", str(rate)]
        made = ffmpeg(["-f", form, *given, "-i", "-", "-ac", "1", "-f", "s16le", "-"], b"".join(payloads))
    return np.frombuffer(made, np.int16)


def compare(ours: Samples, theirs: Samples) -> tuple[float, int]:
    """Signal-to-noise ratio in dB at the best lag (inf: identical), and that lag: samples that ours is late."""
    n = min(len(ours), len(theirs))
    a, b = ours[:n].astype(np.float64), theirs[:n].astype(np.float64)
    size = 1 << (2 * n - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    lag = int(np.argmax(correlation))
    lag -= size if lag > size // 2 else 0
    a, b = (a[lag:], b[:n - lag]) if lag >= 0 else (a[:lag], b[-lag:])
    noise = float(((a - b) ** 2).sum())
    return (10 * np.log10(float((b ** 2).sum()) / noise) if noise else float("inf")), lag


def streams(pcap: Path) -> dict[str, tuple[PayloadFormat, list[bytes]]]:
    """The RTP streams of a capture whose codec ffmpeg has, by SSRC: payloads by sequence number, as tshark sees them."""
    out = subprocess.run(["tshark", "-r", str(pcap), "-Y", "rtp && !icmp", "-T", "fields", "-e", "rtp.ssrc", "-e", "rtp.p_type",
                          "-e", "rtp.extseq", "-e", "rtp.payload"], capture_output=True, check=True, text=True).stdout
    found: defaultdict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
    for line in out.splitlines():
        ssrc, kind, sequence, payload = line.split("\t")
        if payload and (int(kind) in STATIC or ("opus" in pcap.name and int(kind) >= 96)):
            found[ssrc, kind].setdefault(int(sequence), bytes.fromhex(payload.replace(":", "")))
    return {ssrc: (STATIC.get(int(kind), OPUS), [packets[k] for k in sorted(packets)]) for (ssrc, kind), packets in found.items()}


def synthetic() -> dict[str, tuple[PayloadFormat, list[bytes]]]:
    """Made-up speech in every codec that ffmpeg encodes."""
    narrow, wide, full = speech(8000, 30), speech(16000, 30), speech(48000, 30)
    voip = ["-application", "voip"]
    return {
        "PCMU": (STATIC[0], encode("PCMU", narrow, 160)),
        "PCMA": (STATIC[8], encode("PCMA", narrow, 160)),
        "L16": (PayloadFormat("L16", 8000), encode("L16", narrow, 320)),
        "G722": (STATIC[9], encode("G722", wide, 160)),
        "opus, CELT 64 kbit/s": (OPUS, encode_opus(full, ["-b:a", "64k", "-application", "lowdelay"])),
        "opus, hybrid 24 kbit/s": (OPUS, encode_opus(full, ["-b:a", "24k", *voip])),
        "opus, SILK 12 kbit/s": (OPUS, encode_opus(full, ["-b:a", "12k", *voip, "-frame_duration", "60"])),
    }


def line(name: str, format: PayloadFormat, payloads: list[bytes]) -> str:
    """A line of the table."""
    try:
        decoder = open_decoder(format)
    except DecoderUnavailable as e:
        return f"| {name} | {e} | | | |"
    taken = rows(payloads)
    decoder.decode_run(*taken)  # tables and libraries are loaded once, not for each call
    rounds, began, samples = 0, time.process_time(), np.zeros(0, np.int16)
    while not rounds or time.process_time() - began < 0.3:
        decoder.reset()
        samples, rounds = decoder.decode_run(*taken)[0], rounds + 1
    spent = (time.process_time() - began) / rounds
    seconds = len(samples) / decoder.sample_rate
    first, second = (opinion(*compare(samples, reference(format, payloads, other))) for other in ("libopus", "opus"))
    return f"| {name} | {seconds:.1f} | {first} | {second if format == OPUS else ''} | {seconds / spent:,.0f} |"


def opinion(snr: float, lag: int) -> str:
    """A cell of the table."""
    return "bit-exact" if np.isinf(snr) and not lag else f"{snr:.1f} dB, lag {lag}"


def main(paths: list[Path]) -> None:
    """Print the table."""
    print("| stream | seconds | ffmpeg | ffmpeg's own Opus decoder | seconds decoded per CPU second |\n|---|---|---|---|---|")
    for name, (format, payloads) in synthetic().items():
        print(line(f"made-up speech, {name}", format, payloads), flush=True)
    for path in paths:
        for ssrc, (format, payloads) in streams(path).items():
            if len(payloads) >= 50:
                print(line(f"{path.name} {ssrc}, {format.encoding}", format, payloads), flush=True)


if __name__ == "__main__":
    main([Path(a) for a in sys.argv[1:]])
