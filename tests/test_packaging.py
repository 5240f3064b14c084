"""What gets installed: the wheel from the checkout and the one from the sdist, the lock files, what the program imports."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKS = ("appliance", "cli.py", "commands", "decoders", "sniffer", "store")

hatchling_wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, of the development group, is not installed")
hatchling_sdist = pytest.importorskip("hatchling.builders.sdist")


def wheel_of(project: Path, directory: Path) -> zipfile.ZipFile:
    """The wheel that hatchling builds of a project, without network or isolation."""
    directory.mkdir(parents=True)
    (path,) = hatchling_wheel.WheelBuilder(str(project)).build(directory=str(directory), versions=["standard"])
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return wheel_of(ROOT, tmp_path_factory.mktemp("checkout") / "wheel")


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    (path,) = hatchling_sdist.SdistBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"])
    (directory / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", directory / "unpacked"], check=True)  # tarfile's filters differ by patch level
    (project,) = (directory / "unpacked").iterdir()
    return project


def package_files(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: wheel.read(name) for name in wheel.namelist() if not name.partition("/")[0].endswith((".dist-info", ".data"))}


def test_checkout_and_sdist_give_the_same_wheel(wheel: zipfile.ZipFile, unpacked_sdist: Path, tmp_path: Path) -> None:
    from_checkout, from_sdist = package_files(wheel), package_files(wheel_of(unpacked_sdist, tmp_path / "wheel"))
    assert sorted(from_checkout) == sorted(from_sdist)
    assert from_checkout == from_sdist


def test_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    rooms = [ROOT / link.name for link in (ROOT / "src/rokuon").iterdir() if link.is_symlink()]
    files = [file for room in rooms for file in ([room] if room.is_file() else room.rglob("*"))]
    kept = [f for f in files if f.is_file() and f.suffix in {".py", ".sql", ".toml", ".json"}]
    wanted = {f"rokuon/{file.relative_to(ROOT)}" for file in kept}
    assert len(wanted) > 5
    assert wanted <= set(wheel.namelist())
    assert {"rokuon/__init__.py", "rokuon/__main__.py", "rokuon/py.typed"} <= set(wheel.namelist())


def test_rokuon_is_the_only_top_level_name(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in package_files(wheel)} == {"rokuon"}


def test_wheel_brings_units_manual_pages_and_completion(wheel: zipfile.ZipFile) -> None:
    """As shared data: pip puts them under share of the environment, the units into share/rokuon/systemd."""
    shared = {name.partition(".data/data/share/")[2]: name for name in wheel.namelist() if ".data/" in name}
    wanted = {f"rokuon/systemd/{path.name}": path for path in (ROOT / "systemd").iterdir() if path.is_file()}
    wanted |= {f"man/man1/{path.name}": path for path in (ROOT / "packaging/man").iterdir()}
    wanted |= {place: ROOT / f"packaging/completion/rokuon.{shell}" for shell, place in {
        "bash": "bash-completion/completions/rokuon", "zsh": "zsh/site-functions/_rokuon",
        "fish": "fish/vendor_completions.d/rokuon.fish"}.items()}
    assert shared.keys() == wanted.keys()
    for name, path in wanted.items():
        assert wheel.read(shared[name]) == path.read_bytes()


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser(delimiters=("=",))
    points.optionxform = str  # type: ignore[method-assign, assignment]  # names are case-sensitive here
    points.read_string(wheel.read(name).decode())
    assert points["console_scripts"]["rokuon"] == "rokuon.cli:main"
    modules = set(wheel.namelist())
    for group in points.sections():
        for target in points[group].values():
            path = target.partition(":")[0].replace(".", "/")
            assert modules & {f"{path}.py", f"{path}/__init__.py"}, f"{group}: {target} names no module of the wheel"


def test_wheel_imports_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked, without the checkout on the path and without scapy, which only makes fixtures."""
    wheel.extractall(tmp_path)  # our own
    code = f"""if True:
        import sys
        sys.path = [{str(tmp_path)!r}, *(p for p in sys.path if p != {str(ROOT / "src")!r})]
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        import rokuon.cli, rokuon.sniffer.packet, rokuon.decoders.registry
        assert rokuon.cli.__file__.startswith({str(tmp_path)!r}), rokuon.cli.__file__
        assert "scapy" not in sys.modules
        """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LINKS)
def test_link_view(name: str) -> None:
    link = ROOT / "src" / "rokuon" / name
    assert link.is_symlink(), f"{link} has to be a symbolic link; git needs core.symlinks"
    assert link.readlink() == Path("../..") / name


def locked(name: str) -> dict[str, list[str]]:
    """Hashes of each pinned requirement (with its marker) in requirements/NAME.lock."""
    pins: dict[str, list[str]] = {}
    pin = ""
    for line in (ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
        text = line.partition("#")[0].strip().removesuffix("\\").strip()
        if text.startswith("--hash="):
            pins[pin].append(text.removeprefix("--hash="))
        elif text:
            pin = text
            pins[pin] = []
    return pins


@pytest.mark.parametrize("name", ["build", "dev", "run"])
def test_lock_has_versions_and_hashes_and_names_no_index(name: str) -> None:
    pins = locked(name)
    assert pins
    for pin, hashes in pins.items():
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)?$", pin), pin
        assert hashes, f"{pin} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes)
    assert not re.search(r"(?i)://|--(extra-)?index|--find-links|--trusted", (ROOT / f"requirements/{name}.lock").read_text())


def test_locks_agree_and_hold_what_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dev = locked("dev")
    for name in ("run", "build"):
        assert locked(name).items() <= dev.items(), f"requirements/{name}.lock differs from dev.lock: run scripts/lock"
    groups = project["dependency-groups"]
    wanted = {"run": project["project"]["dependencies"], "build": groups["build"], "dev": groups["dev"]}
    for lock, requirements in wanted.items():
        pinned = {pin.partition("==")[0] for pin in locked(lock)}
        named = {re.match(r"[A-Za-z0-9_-]+", r).group().lower().replace("_", "-") for r in requirements if isinstance(r, str)}  # type: ignore[union-attr]
        assert named <= pinned, f"requirements/{lock}.lock is behind pyproject.toml: run scripts/lock"
