from __future__ import annotations

import pytest

from rokuon.decoders.quality import rate


def test_without_loss() -> None:
    g711 = rate("pcmu", 1000, 0)
    assert g711 == (93.2, 4.41)  # G.107: the default R, and the MOS it gives
    g722 = rate("G722", 1000, 0)
    assert g722 == (116.0, 4.34)  # G.107.1: 129 - 13, its MOS that of 116 / 1.29


@pytest.mark.parametrize(("percent", "r"), [(1, 89.6), (5, 77.4), (20, 51.1)])
def test_loss(percent: int, r: float) -> None:
    """93.2 - 95 * Ppl / (Ppl + 25.1)."""
    rated = rate("PCMA", 100 - percent, percent)
    assert rated is not None
    assert rated.r_factor == pytest.approx(r, abs=0.06)


def test_what_nobody_has_published() -> None:
    assert rate("opus", 1000, 0) is None
    assert rate("G722", 1000, 10) is None
    assert rate("PCMU", 0, 0) is None


def test_mos_never_rises_with_loss() -> None:
    values = [rated.mos for lost in range(0, 1000, 10) if (rated := rate("PCMU", 1000 - lost, lost))]
    assert values == sorted(values, reverse=True)
    assert min(values) >= 1
