"""Fuzzes what is read back and shown: sidecars, and text on its way to a terminal."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import os

from fuzz import harness, seeds

with harness.instrumented():
    from rokuon.commands.common import clean
    from rokuon.sniffer import sip_headers
    from rokuon.store import sidecar
    from rokuon.store.errors import DataError

WORDS = (b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"1e999", b"NaN", b"\\ud800", b"\\u0000", b"-0", b"\xff", b"\x1b[2J",
         b"\xe2\x80\xae", b"\xef\xbb\xbf", b"[" * 2000)


def check(data: bytes) -> None:
    """The target."""
    descriptor = os.memfd_create("sidecar")
    try:
        os.write(descriptor, data)
        try:
            found = sidecar.read(Path(f"/proc/self/fd/{descriptor}"))
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(isinstance(key, str) for key in sidecar.problems(found))
            try:
                again = json.loads(sidecar.dump(found))
            except ValueError:
                pass  # NaN and infinities, which nothing of ours writes
            else:
                assert sidecar.problems(again) == sidecar.problems(found)
    finally:
        os.close(descriptor)
    for text in (data.decode("utf-8", "surrogateescape"), sip_headers.decode(data)):
        shown = clean(text)
        assert len(shown) == len(text)
        assert clean(shown) == shown
        assert len(shown.splitlines()) <= 1
        assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in shown), "what a terminal obeys"
        assert sip_headers.clean(sip_headers.clean(text)) == sip_headers.clean(text)
    sip_headers.decode(data).encode("utf-8")


if __name__ == "__main__":
    harness.fuzz(check, seeds.texts, WORDS)
