"""What the tests of the codecs share: ffmpeg as another opinion, captures, plugins made up on the spot."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rokuon.decoders import registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """`bench/codecs.py`: speech, encoders, ffmpeg's decoders, SNR and lag."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    spec = importlib.util.spec_from_file_location("bench_codecs", ROOT / "bench" / "codecs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def captures() -> Path:
    """Real captures, where they lie beside the checkout, and tshark to take them apart."""
    where = ROOT.parent / "shared" / "captures"
    if not where.is_dir():
        pytest.skip("no ../shared/captures here")
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    return where


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a distribution with entry points and, maybe, a module; both are gone after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install_(distribution: str, points: dict[str, str], module: str = "", source: str = "") -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[rokuon.decoders]\n{lines}")
        if module:
            (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        registry.forget()

    yield install_
    monkeypatch.undo()
    registry.forget()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
