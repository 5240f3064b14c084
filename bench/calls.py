"""A small maker of captures, for benchmarks where the large one is missing: plain G.711 calls over IPv4.

python bench/calls.py OUT.pcap [--calls N] [--seconds S] [--ptime MS] [--spread S]
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np

START = 1_767_225_600  # 2026-01-01
MAC = bytes.fromhex("020000000002020000000001") + b"\x08\x00"


def frame(src: tuple[bytes, int], dst: tuple[bytes, int], payload: bytes) -> bytes:
    """Ethernet, IPv4 and UDP (without checksums) around a payload."""
    size = 8 + len(payload)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, 64, 17, 0) + src[0] + dst[0]
    return MAC + ip + struct.pack(">HHHH", src[1], dst[1], size, 0) + payload


def sip(number: int, first: str, cseq: str, media: str = "") -> bytes:
    """A message of one call."""
    address, _, port = media.partition(" ")
    body = (f"v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n") if media else ""
    tag = "" if cseq == "1 INVITE" and first.startswith("INVITE") else ";tag=b"
    return (f"{first}\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{number}x{cseq[0]}\r\n"
            f"From: <sip:{1000 + number}@pbx.example>;tag=a\r\n"
            f"To: <sip:{5000 + number}@pbx.example>{tag}\r\nCall-ID: {number}@bench\r\nCSeq: {cseq}\r\n"
            f"Contact: <sip:x@10.0.0.1>\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def write(path: Path, calls: int, seconds: float, ptime: int = 20, spread: float = 10, seed: int = 1) -> int:
    """Write a capture of answered calls; how many packets it has."""
    rng = np.random.default_rng(seed)
    size, count = 8 * ptime, int(seconds * 1000 / ptime)
    noise = rng.integers(0, 256, (64, size), np.uint8)
    times, order, signalling = [], [], []
    heads = np.empty((2 * calls, 54), np.uint8)
    for number in range(calls):
        a, b = (bytes([10, side, number >> 8, number & 255]) for side in (1, 2))
        ports = 10_000 + 2 * (number % 20_000), 30_000 + 2 * (number % 15_000)
        begin = int(rng.uniform(0, spread) * 1e6)
        sdp = [f"{'.'.join(map(str, ip))} {port}" for ip, port in zip((a, b), ports, strict=True)]
        ends = (a, 5060), (b, 5060)
        for at, back, first, cseq, media in [
                (0, 0, f"INVITE sip:{5000 + number}@pbx.example SIP/2.0", "1 INVITE", sdp[0]),
                (50_000, 1, "SIP/2.0 200 OK", "1 INVITE", sdp[1]),
                (60_000, 0, "ACK sip:x@10.0.0.2 SIP/2.0", "1 ACK", ""),
                (90_000 + int(seconds * 1e6), 0, "BYE sip:x@10.0.0.2 SIP/2.0", "2 BYE", ""),
                (95_000 + int(seconds * 1e6), 1, "SIP/2.0 200 OK", "2 BYE", "")]:
            signalling.append((begin + at, frame(ends[back], ends[1 - back], sip(number, first, cseq, media))))
        for side in (0, 1):
            pair = ((a, ports[0]), (b, ports[1]))
            rtp = struct.pack(">BBHII", 0x80, 0, 0, 0, 0x1000_0000 + 2 * number + side)
            heads[2 * number + side] = np.frombuffer(frame(pair[side], pair[1 - side], rtp + bytes(size))[:54], np.uint8)
            times.append(begin + 70_000 + side * 3000 + np.arange(count) * ptime * 1000)
            order.append(np.stack([np.full(count, 2 * number + side), np.arange(count)], 1))
    time, which = np.concatenate(times), np.concatenate(order)
    rank = np.argsort(time, kind="stable")
    time, which = time[rank], which[rank]
    signalling.sort(key=lambda each: each[0])
    cuts = [*np.searchsorted(time, [at for at, _ in signalling]).tolist(), len(time)]
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        begin = 0
        for number, end in enumerate(cuts):
            for low in range(begin, end, 1 << 16):
                rows = slice(low, min(low + (1 << 16), end))
                out.write(records(time[rows], which[rows], heads, noise))
            begin = end
            if number < len(signalling):
                at, data = signalling[number]
                out.write(struct.pack("<IIII", START + at // 10**6, at % 10**6, len(data), len(data)) + data)
    return len(time) + len(signalling)


def records(time: np.ndarray, which: np.ndarray, heads: np.ndarray, noise: np.ndarray) -> bytes:
    """RTP packets with their record headers."""
    size = 54 + noise.shape[1]
    out = np.empty((len(time), 16 + size), np.uint8)
    fields = np.stack([START + time // 10**6, time % 10**6, np.full(len(time), size), np.full(len(time), size)], 1)
    out[:, :16] = fields.astype("<u4").view(np.uint8).reshape(len(time), 16)
    out[:, 16:70] = heads[which[:, 0]]
    out[:, 60:62] = which[:, 1].astype(">u2").view(np.uint8).reshape(-1, 2)
    out[:, 62:66] = (which[:, 1] * noise.shape[1]).astype(">u4").view(np.uint8).reshape(-1, 4)
    out[:, 70:] = noise[which.sum(axis=1) % len(noise)]
    return out.tobytes()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--ptime", type=int, default=20)
    parser.add_argument("--spread", type=float, default=10)
    args = parser.parse_args()
    print(f"{args.out}: {write(args.out, args.calls, args.seconds, args.ptime, args.spread):,} packets")


if __name__ == "__main__":
    main()
