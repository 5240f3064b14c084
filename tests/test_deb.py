"""The Debian package: its scripts and, where one was built (ROKUON_DEB names it), what is in it.

    ROKUON_DEB=$(scripts/build-deb /var/tmp) pytest tests/test_deb.py

scripts/try-appliance installs, upgrades and removes it on a Debian that it boots.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rokuon import __version__

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / "packaging/debian" / name for name in ("postinst", "postrm", "prerm")]
BUILT = os.environ.get("ROKUON_DEB", "")
debian = shutil.which("dpkg-deb") and Path("/etc/debian_version").exists()
on_debian = pytest.mark.skipif(not debian, reason="this is no Debian")


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "scripts/build-deb", ROOT / "scripts/try-sandbox", ROOT / "systemd/back-off",
                                  ROOT / "systemd/prepare-interface"], ids=lambda p: p.name)
def test_a_shell_reads_it(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", path], capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_nothing_deletes_recordings(path: Path) -> None:
    """The package's scripts remove no directory of data but an empty one, and say what they keep."""
    text = path.read_text()
    commands = [line.strip() for line in text.splitlines() if not line.strip().startswith(("#", "echo"))]
    assert not [c for c in commands if re.search(r"\brm\b", c) and "/var/lib" in c]
    assert "deluser" not in text
    assert "userdel" not in text


@on_debian
def test_version_says_the_release() -> None:
    done = subprocess.run([ROOT / "scripts/build-deb", "--print-version"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    assert re.fullmatch(r"[0-9.]+(~(a|b|rc|dev)\d+)?-1~deb\d+", done.stdout.strip())
    assert done.stdout.startswith(re.sub(r"[a-z.]*\d*$", "", __version__) if re.search("[a-z]", __version__) else __version__)


@on_debian
@pytest.mark.parametrize("arguments", [["--unknown"], ["--revision"], ["/nowhere/at/all"]])
def test_wrong_usage_is_one_line(arguments: list[str]) -> None:
    done = subprocess.run([ROOT / "scripts/build-deb", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1


# -- a package that was built -------------------------------------------------
@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked, its control files in DEBIAN."""
    if not BUILT or not shutil.which("dpkg-deb"):
        pytest.skip("no ROKUON_DEB to look into")
    folder = tmp_path_factory.mktemp("deb") / "root"
    subprocess.run(["dpkg-deb", "-R", BUILT, folder], check=True)
    return folder


def test_what_it_brings(package: Path) -> None:
    for path, source in {
        "lib/systemd/system/rokuon-capture@.service": "systemd/rokuon-capture@.service",
        "lib/systemd/system/rokuon.service": "systemd/rokuon.service",
        "lib/systemd/system/rokuon-metrics.service": "systemd/rokuon-metrics.service",
        "usr/lib/sysusers.d/rokuon.conf": "systemd/rokuon.sysusers",
        "usr/lib/tmpfiles.d/rokuon.conf": "systemd/rokuon.tmpfiles",
        "usr/lib/rokuon/back-off": "systemd/back-off",
        "usr/lib/rokuon/prepare-interface": "systemd/prepare-interface",
        "etc/rokuon/rokuon.toml": "systemd/rokuon.toml",
        "usr/share/doc/rokuon/copyright": "LICENSE",
        "usr/share/bash-completion/completions/rokuon": "packaging/completion/rokuon.bash",
        "usr/share/zsh/vendor-completions/_rokuon": "packaging/completion/rokuon.zsh",
        "usr/share/fish/vendor_completions.d/rokuon.fish": "packaging/completion/rokuon.fish",
    }.items():
        assert (package / path).read_bytes() == (ROOT / source).read_bytes(), path
    assert (package / "DEBIAN/conffiles").read_text() == "/etc/rokuon/rokuon.toml\n"
    assert (package / "usr/share/doc/rokuon/install.md").exists()  # the units name it


def test_manual_pages_are_all_there(package: Path) -> None:
    there = {path.name: gzip.decompress(path.read_bytes()) for path in (package / "usr/share/man/man1").iterdir()}
    assert there == {f"{path.name}.gz": path.read_bytes() for path in (ROOT / "packaging/man").iterdir()}
    assert all((package / "usr/share/man/man1" / name).read_bytes()[4:8] == bytes(4) for name in there)  # gzip's time


def test_every_program_the_units_start_is_there(package: Path) -> None:
    for unit in (package / "lib/systemd/system").iterdir():
        for program in re.findall(r"(?m)^Exec\w+=[+-]*(/usr\S*rokuon\S*)", unit.read_text()):
            assert os.access(package / program[1:], os.X_OK), program


def test_it_says_which_release_it_serves(package: Path) -> None:
    control = (package / "DEBIAN/control").read_text()
    assert "@" not in control.replace("maintainers@", "")
    needs = re.search(r"(?m)^Depends: python3 \(>= (3\.\d+)\), python3 \(<< (3\.\d+)\), python(3\.\d+),", control)
    assert needs
    first, next_one, own = needs.groups()
    assert first == own
    assert int(next_one[2:]) == int(first[2:]) + 1
    assert (package / "usr/lib/rokuon/bin/python3").readlink() == Path(f"/usr/bin/python{own}")
    assert re.search(r"(?m)^Version: \S+~deb\d+$", control)
    assert re.search(r"(?m)^ For Debian \d+ ", control)


def test_nothing_speaks_of_where_it_was_built(package: Path) -> None:
    done = subprocess.run(["grep", "-rlE", "rokuon-deb\\.[A-Za-z0-9]{6}", package], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_byte_code_is_of_its_source(package: Path) -> None:
    """Else each start compiles again what the service may not keep."""
    modules = list((package / "usr/lib/rokuon/lib").rglob("site-packages/rokuon/**/*.py"))
    assert len(modules) > 50
    for module in modules:
        (compiled,) = (module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc")
        header = compiled.read_bytes()[:16]
        assert int.from_bytes(header[4:8], "little") == 0  # by time and size
        assert int.from_bytes(header[8:12], "little") == int(module.stat().st_mtime)
        assert int.from_bytes(header[12:16], "little") == module.stat().st_size
