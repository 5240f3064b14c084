"""SIP over WebSocket: RFC 7118, frames by RFC 6455 section 5."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

__all__ = ["HEAD_LIMIT", "Opening", "WebSocketFrame", "next_websocket_frame", "opening"]

HEAD_LIMIT = 16_384
"""An opening handshake that is longer is none."""

_OPENING = re.compile(rb"(?:GET [^ \r\n]++ HTTP/1\.1|HTTP/1\.1 101[^\r\n]*+)\r?\n")
_MAYBE = re.compile(rb"(?:G(?:E(?:T(?: .*)?)?)?|H(?:T(?:T(?:P(?:/.*)?)?)?)?)\Z", re.DOTALL)
_UPGRADE = re.compile(rb"\nupgrade[ \t]*+:[ \t]*+websocket[ \t]*+\r?\n", re.IGNORECASE)
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2


class Opening(Enum):
    NONE = 0
    MAYBE = 1
    """More bytes will tell."""
    WEBSOCKET = 2


class WebSocketFrame(NamedTuple):
    """A frame; payload unmasked."""

    end: int
    """Behind its last byte; 0: it is not whole yet; -1: no frame, or one beyond the limit."""
    needed: int = 0
    """The buffer's length with which it is whole."""
    first: bool = True
    """It begins a message (text or binary); else it goes on with one."""
    final: bool = True
    """It ends a message."""
    data: bool = False
    """It carries (part of) a message; else it is a ping, pong or close, or compressed, which is not read."""
    compressed: bool = False
    payload: bytes = b""


def opening(buffer: bytearray) -> tuple[Opening, int]:
    """Whether an HTTP upgrade to WebSocket begins `buffer`, and where it ends (RFC 6455 section 4)."""
    if not _OPENING.match(buffer):
        maybe = len(buffer) < HEAD_LIMIT and buffer.find(b"\n", 0, HEAD_LIMIT) < 0 and _MAYBE.match(buffer)
        return (Opening.MAYBE if maybe else Opening.NONE), 0
    end = buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    if end < 0:
        return (Opening.MAYBE if len(buffer) < HEAD_LIMIT else Opening.NONE), 0
    return (Opening.WEBSOCKET, end + 4) if _UPGRADE.search(buffer, 0, end + 2) else (Opening.NONE, 0)


def next_websocket_frame(buffer: bytearray, limit: int) -> WebSocketFrame:
    """The frame at the beginning of `buffer`; `limit`: bytes of the longest payload that is taken."""
    if len(buffer) < 2:
        return WebSocketFrame(0, 2)
    opcode, length, masked = buffer[0] & 0x0F, buffer[1] & 0x7F, buffer[1] & 0x80
    at = 2
    if length >= 126:
        at = 4 if length == 126 else 10
        if len(buffer) < at:
            return WebSocketFrame(0, at)
        length = int.from_bytes(buffer[2:at], "big")
    if buffer[0] & 0x30 or opcode not in (0, 1, 2, 8, 9, 10) or length > limit or (opcode >= 8 and length > 125):
        return WebSocketFrame(-1)
    mask = bytes(buffer[at:at + 4]) if masked else b""
    at += 4 if masked else 0
    end = at + length
    if len(buffer) < end:
        return WebSocketFrame(0, end)
    data, compressed = opcode < 8, bool(buffer[0] & 0x40)
    payload = b""
    if data and not compressed:
        payload = bytes(buffer[at:end])
        if masked:
            key = (mask * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return WebSocketFrame(end, 0, opcode != _CONTINUATION, bool(buffer[0] & 0x80), data, compressed, payload)
