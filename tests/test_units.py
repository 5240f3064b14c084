"""The service units and what lies beside them: what they may do, that they fit together, and the two scripts they run."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from rokuon.store.settings import SECTIONS, Settings, parse

ROOT = Path(__file__).resolve().parent.parent
SYSTEMD = ROOT / "systemd"
UNITS = ("rokuon-capture@.service", "rokuon.service", "rokuon-metrics.service")
COMMANDS = {"rokuon-capture@.service": "capture -i %i", "rokuon.service": "correlate", "rokuon-metrics.service": "metrics"}
EXPOSURE = {"rokuon-capture@.service": 14, "rokuon.service": 4, "rokuon-metrics.service": 13}
"""The most that `systemd-analyze security` may find, in tenths."""

analyses = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing")


def directives(name: str) -> dict[str, list[str]]:
    """Every value of each directive, in order."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def placed(name: str, folder: Path, change: Callable[[str], str] = str) -> Path:
    """A copy under a name that a tool takes for a unit of its own."""
    path = folder / name.replace("@.", "@eth1.")
    path.write_text(change((SYSTEMD / name).read_text(encoding="utf-8")), encoding="utf-8")
    return path


@analyses
@pytest.mark.parametrize("name", UNITS)
def test_exposure(name: str, tmp_path: Path) -> None:
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}",
                           placed(name, tmp_path)], capture_output=True, text=True, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@analyses
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    for other in UNITS:
        placed(other, tmp_path, lambda text: re.sub(r"(?m)^(Exec\w+=[+-]*)\S+", r"\1/bin/true", text))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                           tmp_path / name.replace("@.", "@eth1.")],
                          capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "rokuon" in line]
    assert not said


@pytest.mark.parametrize("name", UNITS)
def test_what_all_units_share(name: str) -> None:
    unit = directives(name)
    assert unit["ExecStart"] == [f"/usr/bin/rokuon {COMMANDS[name]}"]
    assert unit["User"] == unit["Group"] == ["rokuon"]
    assert "ROKUON_DATA=/var/lib/rokuon" in unit["Environment"][0].split()
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"]
    assert unit["StartLimitIntervalSec"] == ["0"]  # it is never given up
    assert unit["UMask"] == ["0027"]  # the group may read
    assert unit["LimitCORE"] == ["0"]  # a core dump would hold voices
    assert unit["SystemCallErrorNumber"] == ["EPERM"]
    assert unit["KillMode"] == ["mixed"]
    assert unit["WantedBy"] == ["multi-user.target"]


def test_rights() -> None:
    capture, correlate, metrics = map(directives, UNITS)
    assert capture["CapabilityBoundingSet"] == capture["AmbientCapabilities"] == ["CAP_NET_RAW"]
    assert correlate["CapabilityBoundingSet"] == metrics["CapabilityBoundingSet"] == [""]
    assert correlate["PrivateNetwork"] == ["yes"]
    assert metrics["InaccessiblePaths"] == ["/var/lib/rokuon/spool"]
    assert metrics["IPAddressAllow"] == ["localhost"]
    assert "ReadWritePaths" not in capture
    assert capture["BindPaths"] == ["/var/lib/rokuon/spool /var/lib/rokuon/state"]
    assert capture["ExecStartPre"][0].startswith("+-")  # as root, and of no consequence
    for key in ("CPUWeight", "IOWeight"):
        assert int(capture[key][0]) > int(correlate[key][0]) > int(metrics[key][0])
    scores = [int(unit["OOMScoreAdjust"][0]) for unit in (capture, correlate, metrics)]
    assert scores == sorted(scores)
    assert {"rokuon.service", "rokuon-metrics.service"} == set(capture["Wants"][0].split())


def test_directories_are_made() -> None:
    lines = (SYSTEMD / "rokuon.tmpfiles").read_text().splitlines()
    made = {line.split()[1]: line.split()[2:5] for line in lines if line.startswith("d")}
    assert all(rights == ["0750", "rokuon", "rokuon"] for rights in made.values())
    for name in UNITS:
        for key in ("BindPaths", "ReadWritePaths", "InaccessiblePaths"):
            assert {p for value in directives(name).get(key, []) for p in value.split() if p[0] != "-"} <= set(made)
    assert "f /var/lib/rokuon/state/watched 0660 rokuon rokuon -" in lines  # `rokuon live` of the group's members writes it
    assert "u rokuon " in (SYSTEMD / "rokuon.sysusers").read_text()


# -- the example of a configuration ------------------------------------------
def test_example_is_in_step_with_the_settings() -> None:
    loader = importlib.machinery.SourceFileLoader("example_config", str(ROOT / "scripts/example-config"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    text = (SYSTEMD / "rokuon.toml").read_text(encoding="utf-8")
    assert text == module.example(), "run: .venv/bin/python scripts/example-config >systemd/rokuon.toml"
    assert parse(text, "example") == Settings()
    everything = re.sub(r"(?m)^#(\w+ = )", r"\1", text)
    settings = parse(everything, "example")
    assert settings.origin.keys() == {f"{section}.{f.name}" for section, kind in SECTIONS.items() for f in fields(kind)}
    assert all(getattr(settings, section) == kind() for section, kind in SECTIONS.items())


# -- back-off ----------------------------------------------------------------
@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A directory for commands that scripts find before the real ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(script: str, *arguments: str, fakes: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", SYSTEMD / script, *arguments], capture_output=True, text=True, check=False,
                          env={"PATH": f"{fakes}:{os.environ['PATH']}", **environment})


def test_back_off(fakes: Path, tmp_path: Path) -> None:
    """A machine whose time is a file: `sleep` lets it pass."""
    now = tmp_path / "now"
    now.write_text("1000000")
    fake(fakes, "date", f"cat {now}")
    fake(fakes, "sleep", f"echo $(($(cat {now}) + $1)) >{now}")
    fake(fakes, "mv", "exit 1")  # nothing else is needed

    def start(after: int) -> int:
        """Seconds that the start waits, where the last run took so long."""
        begun = int(now.read_text()) + after
        now.write_text(str(begun))
        done = run("back-off", "rokuon.service", fakes=fakes, RUNTIME_DIRECTORY=str(tmp_path))
        assert done.returncode == 0, done.stderr
        waited = int(now.read_text()) - begun
        assert bool(waited) == ("stopped again at once" in done.stderr)
        return waited

    assert [start(0) for _ in range(12)] == [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [start(after) for after in (2, 3, 0, 2, 1, 0, 0)] == [30, 0, 0, 0, 0, 1, 2]
    assert [start(5) for _ in range(20)] == [0] * 20  # every five seconds: never a second lost
    assert start(-100_000) == 0  # the clock was set back
    (tmp_path / "rokuon.service.starts").write_text("x $(reboot) ; 7\n")
    assert start(0) == 0
    assert run("back-off", "u", fakes=fakes, RUNTIME_DIRECTORY=str(tmp_path / "gone")).stdout == ""


# -- prepare-interface -------------------------------------------------------
def machine(folder: Path, flags: str = "0x1002") -> Path:
    """Files of a machine that has an interface eth1."""
    for path, text in (("sys/class/net/eth1/flags", flags), ("proc/sys/net/ipv6/conf/eth1/disable_ipv6", "0")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text + "\n")
    return folder


def prepared(system: Path, fakes: Path, name: str = "eth1") -> tuple[str, str, list[str]]:
    """Its flags afterwards, whether IPv6 is off, and what ethtool was asked."""
    asked = system / "asked"
    asked.touch()
    fake(fakes, "ethtool", f'echo "$@" >>{asked}; exit 1')
    fake(fakes, "ip", "exit 1")  # as where iproute2 is missing
    done = run("prepare-interface", name, fakes=fakes, ROKUON_SYSTEM_ROOT=str(system))
    assert done.returncode == 0, done.stderr
    return ((system / "sys/class/net/eth1/flags").read_text().strip(),
            (system / "proc/sys/net/ipv6/conf/eth1/disable_ipv6").read_text().strip(), asked.read_text().splitlines())


def test_a_mirror_port_is_set_up_and_stays_silent(fakes: Path, tmp_path: Path) -> None:
    flags, silent, asked = prepared(machine(tmp_path / "m"), fakes)
    assert (flags, silent) == ("0x1003", "1")
    assert {"-K eth1 gro off", "-K eth1 lro off"} <= set(asked)


def test_an_interface_in_use_is_left_alone(fakes: Path, tmp_path: Path) -> None:
    assert prepared(machine(tmp_path / "m", flags="0x1003"), fakes)[:2] == ("0x1003", "0")


@pytest.mark.parametrize(("file", "text", "left"), [
    ("etc/network/interfaces", "auto eth1\niface eth1 inet dhcp\n", True),
    ("etc/network/interfaces.d/uplink", "iface eth1 inet dhcp\n", True),
    ("etc/systemd/network/10-lan.network", "[Match]\nName=eth1\n", True),
    ("etc/NetworkManager/system-connections/a.nmconnection", "interface-name=eth1\n", True),
    ("etc/network/interfaces", "auto eth10\niface eth10 inet dhcp\n", False),
    ("etc/network/interfaces", "auto eth0\n", False),
])
def test_what_other_settings_name_is_left_alone(file: str, text: str, left: bool, fakes: Path, tmp_path: Path) -> None:
    system = machine(tmp_path / "m")
    (system / file).parent.mkdir(parents=True)
    (system / file).write_text(text)
    assert prepared(system, fakes)[:2] == (("0x1002", "0") if left else ("0x1003", "1"))


@pytest.mark.parametrize("name", ["any", "eth7", "../../../etc", ""])
def test_no_such_interface(name: str, fakes: Path, tmp_path: Path) -> None:
    assert prepared(machine(tmp_path / "m"), fakes, name) == ("0x1002", "0", [])


def test_nonsense_for_flags(fakes: Path, tmp_path: Path) -> None:
    assert prepared(machine(tmp_path / "m", flags="0x$(reboot)"), fakes)[:2] == ("0x$(reboot)", "0")


# -- on a machine where it is installed --------------------------------------
@pytest.mark.skipif(os.geteuid() != 0 or not Path("/run/systemd/system").is_dir() or not Path("/usr/lib/rokuon").is_dir(),
                    reason="needs root, systemd running, and the package installed (scripts/try-appliance has all three)")
def test_codecs_work_in_the_sandbox() -> None:
    done = subprocess.run([ROOT / "scripts/try-sandbox", ROOT / "fixtures/pcaps/office-morning.pcap"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
