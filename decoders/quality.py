"""What packet loss makes of speech: R factor and MOS by the E-model (ITU-T G.107, wideband G.107.1).

Only the codec and the loss seen at the capture point are known here, so everything else has G.107's default values and
the delay is taken as short (no more than 100 ms mouth to ear, where Id is 0). Loss is taken as random (BurstR = 1).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Quality", "rate"]


class Quality(NamedTuple):
    """Of one stream."""

    r_factor: float
    mos: float


class _Impairment(NamedTuple):
    best: float
    """R with every parameter at its default and no impairment by the codec."""
    ie: float
    """Equipment impairment factor without loss."""
    bpl: float | None
    """Packet-loss robustness factor; None: not published, so nothing is said of a stream with losses."""


# G.107 section 7.7: R = 93.2 by default. G.113 appendix I: G.711 Ie 0, Bpl 25.1 with packet loss concealment.
# G.107.1: R = 129 by default. G.113 appendix IV: G.722 at 64 kbit/s Ie,wb 13.
WIDEBAND = 1.29
"""How far the wideband scale of R reaches beyond the narrowband one."""

KNOWN = {"PCMU": _Impairment(93.2, 0.0, 25.1), "PCMA": _Impairment(93.2, 0.0, 25.1), "G722": _Impairment(129.0, 13.0, None)}


def rate(codec: str, packets: int, lost: int) -> Quality | None:
    """Quality of a stream of so many packets received and lost; None where the codec has no published values."""
    known = KNOWN.get(codec.upper())
    if known is None or packets <= 0:
        return None
    percent = 100 * lost / (packets + lost)
    effective = known.ie
    if lost:
        if known.bpl is None:
            return None
        effective += (95 - known.ie) * percent / (percent + known.bpl)  # G.107 equation 7-29
    r = known.best - effective
    return Quality(round(r, 1), round(_mos(r / WIDEBAND if known.best > 100 else r), 2))


def _mos(r: float) -> float:
    """G.107 annex B. A wideband R is brought to the narrowband scale before (G.107.1 section 7: MOS of R / 1.29)."""
    if r <= 0:
        return 1.0
    return 4.5 if r >= 100 else max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)
