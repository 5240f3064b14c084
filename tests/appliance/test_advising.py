"""What is advised: only what is video beyond doubt, whatever else is going on at its addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, T0_US, A, Address, B, C, Dialog, S, Wire, both, sdp
from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

from rokuon.appliance.advising import video_types
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator

A_VIDEO, B_VIDEO = ("10.0.0.1", 4002), ("10.0.0.2", 6002)
NOW = 3 * S


def with_video(audio: Address, video: int, types: str = "96", more: tuple[str, ...] = ("a=rtpmap:96 H264/90000",),
               **how: object) -> str:
    return sdp(audio, more=[f"m=video {video} RTP/AVP {types}", *more], **how)  # type: ignore[arg-type]


OFFER, ANSWER = with_video(A_RTP, 4002), with_video(B_RTP, 6002)


def media(wire: Wire, **how: object) -> None:
    both(wire, S // 2, 100)
    both(wire, S // 2, 100, A_VIDEO, B_VIDEO, (31, 32), payload_type=96, ticks=1800, **how)  # type: ignore[arg-type]


def advised(wire: Wire, now_us: int = NOW) -> dict[int, set[int]]:
    """What is advised of at a time: payload types by SSRC."""
    packets = [Packet((T0_US + f.at_us) * 1000, f.data, len(f.data)) for f in wire.sorted() if f.at_us <= now_us]
    correlator, capture = Correlator(), Capture()
    for begin in range(0, len(packets), 50):
        correlator.process(capture.process(batch(packets[begin:begin + 50])))
    binder, found = correlator.binder, {}
    for call in correlator.tracker.live.values():
        for stream in binder.streams_of(call):
            if call.answer_ns is not None and call.end_ns is None and (types := video_types(stream, call, binder)):
                found[stream.ssrc] = {number for number in range(128) if types >> number & 1}
    return found


def answered(wire: Wire, offer: str = OFFER, answer: str = ANSWER) -> Dialog:
    dialog = Dialog(wire)
    dialog.answered(0, (offer,), (answer,))
    return dialog


def test_video_of_an_answered_call() -> None:
    wire = Wire()
    dialog = answered(wire)
    media(wire)
    dialog.bye(4 * S)
    assert advised(wire) == {31: {96}, 32: {96}}
    assert advised(wire, 5 * S) == {}  # whoever comes next may have the address for something else


def test_before_the_answer() -> None:
    wire = Wire()
    dialog = Dialog(wire)
    dialog.request(0, "INVITE", OFFER, to_tag="")
    dialog.response(S // 4, 183, ANSWER)
    media(wire)
    assert advised(wire) == {}


def bundled(wire: Wire) -> None:
    answered(wire, with_video(A_VIDEO, 4002), with_video(B_VIDEO, 6002))


def one_end_only(wire: Wire) -> None:
    answered(wire, OFFER, with_video(B_RTP, 6002, address="10.0.0.77"))


def video_refused(wire: Wire) -> None:
    answered(wire, OFFER, with_video(B_RTP, 0))


def named_for_audio_by_another_call(wire: Wire) -> None:
    answered(wire)
    other = Dialog(wire, call_id="other", hops=((C, B),))
    other.request(S, "INVITE", sdp(C_RTP), to_tag="")
    other.response(S + S // 10, 183, sdp(B_VIDEO))


def named_for_video_by_another_call(wire: Wire) -> None:
    answered(wire)
    other = Dialog(wire, call_id="other", hops=((C, A),))
    other.answered(S, (with_video(C_RTP, 4002, address="10.0.0.1"),), (sdp(A_RTP),))


def moved_to_audio(wire: Wire) -> None:
    answered(wire).reinvite(2 * S, (sdp(A_VIDEO, version=2),), (sdp(B_VIDEO, version=2),))


def moved_away(wire: Wire) -> None:
    answered(wire).reinvite(2 * S, (with_video(A_RTP, 4444, version=2),), (with_video(B_RTP, 6666, version=2),))


def offered_when_it_went_on_already(wire: Wire) -> None:
    dialog = Dialog(wire)
    dialog.answered(S, (OFFER,), (ANSWER,))


def type_of_audio(wire: Wire) -> None:
    opus = {"payload_types": "0 96", "maps": ("96 opus/48000/2",)}
    answered(wire, with_video(A_RTP, 4002, **opus), with_video(B_RTP, 6002))


@pytest.mark.parametrize("signalled", [bundled, one_end_only, video_refused, named_for_audio_by_another_call,
                                       named_for_video_by_another_call, moved_to_audio, moved_away,
                                       offered_when_it_went_on_already, type_of_audio])
def test_where_there_is_doubt(signalled: Callable[[Wire], None]) -> None:
    wire = Wire()
    media(wire)
    signalled(wire)
    assert advised(wire) == {}


def test_media_in_another_vlan() -> None:
    wire = Wire()
    answered(wire)
    media(wire, vlan=(7,))
    assert advised(wire) == {}


def test_types_that_are_described() -> None:
    wire = Wire()
    lines = ("a=rtpmap:96 H264/90000", "a=rtpmap:97 rtx/90000", "a=rtpmap:101 VP8/90000")
    answered(wire, with_video(A_RTP, 4002, "96 97 101", lines), with_video(B_RTP, 6002))
    media(wire)
    assert advised(wire) == {31: {96, 97}, 32: {96, 97}}  # 101 is telephone-event beside the audio
