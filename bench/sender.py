"""Sends calls into a wire, made on the fly: `python bench/sender.py --calls 300 --seconds 10`, as root.

Without --interface it makes a veth pair in a network namespace of its own and tells what sending costs; with it, it sends into
that end of a wire and prints one JSON object: packets and calls sent, its CPU seconds, and whether it kept its pace. Packets
are paid out evenly, in ticks of 2 ms. --manifest FILE tells the truth of every call that was sent whole, in the shape of the
load generator's manifest.

    --flood KIND:RATE[:START:SECONDS]   beside the calls; sip: messages of scanners and registering phones, ssrc: a new SSRC
                                        each packet, all on one flow, ssrc-flows: each on a flow of its own
    --replay FILE                       a capture instead, at its own pace
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sender_calls import TICK_S, Calls
from sender_floods import FLOODS
from sender_inject import Injector
from sender_replay import Replay
from sender_ring import Ring
from tests.sniffer.wires import missing, own_network, wire

SECOND = 500
"""Ticks."""
LATE_S = 0.020
"""Later than a packet time: the pace was not kept."""


def counters(interface: str) -> tuple[int, int, int, int]:
    """Packets received, of received ones dropped, sent, of those to send dropped, as the kernel counts them at an interface."""
    lines = Path("/proc/thread-self/net/dev").read_text("ascii").splitlines()
    values = next(line.split(":")[1].split() for line in lines if line.split(":")[0].strip() == interface)
    return int(values[1]), int(values[3]), int(values[9]), int(values[11])


class Part(Protocol):
    over: bool

    def tick(self) -> None: ...

    def close(self) -> None: ...


def run(parts: Sequence[Part], enough: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Ticks until all parts are over; how late it was. `enough` is called now and then."""
    latest, late, ticks = 0.0, 0, 0
    begun = time.monotonic()
    while not all(part.over for part in parts):
        behind = time.monotonic() - begun - ticks * TICK_S
        if behind < 0:
            time.sleep(-behind)
        latest = max(latest, behind)
        late += behind > LATE_S
        for part in parts:
            part.tick()
        ticks += 1
        if not ticks % SECOND:
            enough()
    return {"seconds": round(time.monotonic() - begun, 3), "ticks": ticks, "late_ticks": late,
            "latest_ms": round(latest * 1000, 1), "kept_up": latest <= LATE_S}


def flood(interface: str, text: str, ring: Any) -> Any:
    kind, *numbers = text.split(":")
    rate, start, seconds = (*map(float, numbers), *(0.0, 10.0)[len(numbers) - 1:]) if 1 <= len(numbers) <= 3 else (0.0, 0.0, 0.0)
    if kind not in FLOODS or rate <= 0:
        raise SystemExit(f"--flood {text}: KIND:RATE[:START:SECONDS], KIND one of {', '.join(FLOODS)}")
    return FLOODS[kind](interface, rate, start, seconds, ring)


def send(options: argparse.Namespace, interface: str) -> dict[str, Any]:
    """Everything that was asked for; what there is to say of it."""
    def ring(name: str, count: int) -> Any:
        return Injector(options.inject, count) if options.inject else Ring(name, count)

    floods = {text: flood(interface, text, ring) for text in options.flood}
    calls: Any = Replay(interface, options.replay) if options.replay else Calls(
        interface, options.calls, options.duration, options.seconds, options.ramp, options.seed, ring)
    def enough() -> None:
        if options.until and options.until.exists():
            calls.stop_now()

    gc.disable()  # it looks through all calls for some milliseconds, and there are no cycles worth it
    before = os.times()
    told = run([calls, *floods.values()], enough)
    after = os.times()
    told |= {"cpu_user_s": round(after.user - before.user, 2), "cpu_system_s": round(after.system - before.system, 2),
             "rtp": calls.rtp, "messages": calls.messages, "floods": {text: part.sent for text, part in floods.items()},
             "packets": calls.rtp + calls.messages + sum(part.sent for part in floods.values())}
    if not options.replay:
        told |= {"calls": sum(call.over for call in calls.calls), "busiest": calls.busiest}
    told["cpu_us_a_packet"] = round(1e6 * (told["cpu_user_s"] + told["cpu_system_s"]) / max(told["packets"], 1), 3)
    if options.manifest and not options.replay:
        options.manifest.write_text(json.dumps(calls.manifest()))
    for part in (calls, *floods.values()):
        part.close()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interface", help="the end of a wire to send into; default: a wire of its own")
    parser.add_argument("--inject", metavar="INTERFACE", help="have RTP received there, where a card's driver would put it, past "
                        "the wire's sending half: for less than half the CPU")
    parser.add_argument("--calls", type=int, default=300, help="at a time")
    parser.add_argument("--duration", type=float, default=90, help="seconds of talk of a call")
    parser.add_argument("--seconds", type=float, default=10, help="at full number")
    parser.add_argument("--until", type=Path, metavar="FILE", help="calls end before --seconds are over, when this file is there")
    parser.add_argument("--ramp", type=float, default=5, help="seconds within which the first calls begin and the last ones end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flood", action="append", default=[], metavar="KIND:RATE[:START:SECONDS]")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--nice", type=int, default=0, help="how it is scheduled beside others, nice(2)")
    options = parser.parse_args()
    os.nice(options.nice)
    if options.interface:
        print(json.dumps(send(options, options.interface)))
        return
    if reason := missing():
        sys.exit(reason)
    with own_network():
        wire("near", "far")
        told = send(options, "near")
        near, far = counters("near"), counters("far")
    told |= {"sent": near[2], "dropped_sending": near[3], "received": far[0], "dropped_receiving": far[1]}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
