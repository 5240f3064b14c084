"""Where SIP messages begin and end in a byte stream: RFC 3261 sections 7.5 and 18.3, RFC 5626 section 3.5.1."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from rokuon.sniffer.sip import METHODS, looks_like_sip

__all__ = ["LINE_LIMIT", "Frame", "Verdict", "find_start", "next_frame", "undecided"]

LINE_LIMIT = 8_192
"""A start line that is longer is none."""

_METHODS = "|".join(METHODS).encode()
# A start line alone is not enough: message/sipfrag bodies (RFC 3420) begin with one. A header field must follow.
_START = re.compile(rb"(?:SIP/2\.0 [1-6][0-9][0-9][^0-9\n][^\n]*+|(?:%s) (?:(?! SIP/2\.0[ \r]*\n)[^\n])++ SIP/2\.0[ \r]*+)"
                    rb"\n[!-9;-~]{1,64}+[ \t]*+:" % _METHODS)
# Behind a body that does not end its last line (application/dtmf-relay, XML) the start line begins within one.
_WITHIN = re.compile(rb"(?:SIP/2\.0 [1-6][0-9][0-9] [^\n]{0,512}+|(?:%s) (?:sips?|tel):[^ \n]{1,2048}+ SIP/2\.0[ \r]*+)"
                     rb"\n[!-9;-~]{1,64}+[ \t]*+:" % _METHODS)
_FIELD = re.compile(rb"\n[!-9;-~]{1,64}+[ \t]*+:")
_MAYBE = re.compile(rb"(?:S(?:I(?:P(?:/(?:2(?:\.(?:0(?: .*)?)?)?)?)?)?)?|[A-Z]{1,32}(?: .*)?)\Z", re.DOTALL)
_LENGTH = re.compile(rb"\n(?:content-length|l)[ \t]*+:[ \t]*+(?:\r?\n[ \t]++)?([0-9]{1,9})[ \t]*+(?=\r?\n|\Z)", re.IGNORECASE)
_PADDING = re.compile(rb"[\r\n\x00]*+")
_BLANK = re.compile(rb"\n\r?\n")


class Verdict(Enum):
    MESSAGE = "message"
    MORE = "more"
    """What is there may be the beginning of a message."""
    GARBAGE = "garbage"
    """What is there is no SIP."""
    TOO_LONG = "too-long"
    """It begins a message, but one beyond the limit; `end` is where its header fields end, or, if they do not, the first
    line that may begin another one."""


class Frame(NamedTuple):
    """What stands at the beginning of a buffer."""

    verdict: Verdict
    begin: int
    """Behind the empty lines (keep-alives) before it."""
    end: int
    """Of a message: behind its last byte. MORE: up to where the end of the header fields was sought."""
    needed: int = 0
    """MORE: the buffer's length with which the message is whole; 0: not known yet."""
    length_missing: bool = False


def find_start(buffer: bytearray, position: int, vain: tuple[int, int] = (0, 0)) -> int:
    """Where, at or after `position`, a SIP message begins beyond doubt; -1: nowhere so far.

    The same answer comes however the buffer grew, as long as later searches begin at `undecided`. `vain`: lines between these
    places are known to be no beginning.
    """
    while (version := buffer.find(b"SIP/2.0", position)) >= 0:  # every start line has it, few other lines do
        if vain[0] <= version < vain[1]:
            position = vain[1]
            continue
        start = max(buffer.rfind(b"\n", max(0, version - LINE_LIMIT), version) + 1, version - LINE_LIMIT)
        line_end = buffer.find(b"\n", version)
        if line_end < 0:
            break
        if _FIELD.match(buffer, line_end):
            if start >= position and _START.match(buffer, start) and (
                    line_end - start < LINE_LIMIT and looks_like_sip(bytes(buffer[start:line_end + 1]))):  # so has `next_frame`
                return start
            match = _WITHIN.search(buffer, max(start, position, line_end - LINE_LIMIT + 1), line_end + 80)
            if match is not None:
                return match.start()
        position = line_end + 1
    return -1


def undecided(buffer: bytearray) -> int:
    """From where a search in vain must be made again when `buffer` has grown: its last line but one."""
    last = buffer.rfind(b"\n", max(0, len(buffer) - LINE_LIMIT))
    return max(buffer.rfind(b"\n", max(0, len(buffer) - LINE_LIMIT), max(last, 0)) + 1, len(buffer) - LINE_LIMIT, 0)


def next_frame(buffer: bytearray, scanned: int, limit: int) -> Frame:
    """The message at the beginning of `buffer`.

    `scanned`: up to where its end was sought in vain before. `limit`: bytes of the longest message that is taken.
    """
    match = _PADDING.match(buffer)
    begin = match.end() if match else 0
    if begin == len(buffer):
        return Frame(Verdict.MORE, begin, begin)
    line_end = buffer.find(b"\n", begin, begin + LINE_LIMIT)
    if line_end < 0:
        maybe = len(buffer) - begin < LINE_LIMIT and _MAYBE.match(buffer, begin)
        return Frame(Verdict.MORE if maybe else Verdict.GARBAGE, begin, begin)
    if not looks_like_sip(bytes(buffer[begin:line_end + 1])):
        return Frame(Verdict.GARBAGE, begin, begin)
    sought = max(line_end, scanned - 2)
    blank = _BLANK.search(buffer, sought)  # not two searches: one of them might go through all that is behind, for each message
    if blank is None:
        if len(buffer) - begin <= limit:
            return Frame(Verdict.MORE, begin, len(buffer))
        # Nor is there an end for what begins in the lines behind it: of those the ones that are too long, too, are passed over.
        return Frame(Verdict.TOO_LONG, begin, max(begin + 1, buffer.rfind(b"\n", begin, len(buffer) - limit) + 1))
    end = blank.end()
    length = _LENGTH.search(buffer, line_end, end)
    total = end + (int(length[1]) if length else 0)
    if total - begin > limit:
        return Frame(Verdict.TOO_LONG, begin, end)
    if total > len(buffer):
        return Frame(Verdict.MORE, begin, sought, total)
    return Frame(Verdict.MESSAGE, begin, total, length_missing=length is None)
