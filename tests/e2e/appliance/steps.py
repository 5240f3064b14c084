"""The steps of `scripts/try-appliance`, in their order; docs/testing.md says what each is for."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.appliance import outages, space
from tests.e2e.appliance.machine import Broken
from tests.e2e.appliance.run import CAPTURE, CORRELATE, LISTENER, METRICS, STRANGER, UNITS, Appliance, brief, last
from tests.e2e.appliance.sound import heard
from tests.e2e.appliance.traffic import dumping, make_load, read, replay

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
PCAPS = ROOT / "fixtures" / "pcaps"
FACTS = ROOT.parent / "shared" / "checks" / "facts.py"
EXPOSURE = {CAPTURE: 1.4, CORRELATE: 0.4, METRICS: 1.3}
SHORT = ("early-media", "fragmented-ipv4", "ipv6", "qinq", "tcp-segments", "vlan")  # one call each, of 1.5 s
CONFIGURATION = Path("etc/rokuon/rokuon.toml")
LISTEN = "127.0.0.1:9741"


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What matters of what a command said."""
    return last(done.stderr if done.returncode else done.stdout)


def flat(text: str) -> str:
    """The beginning of JSON, in a line."""
    return " ".join(text[:400].split())[:200]


def install(box: Appliance) -> None:
    """The package, as the README says; its units; how well they are sealed."""
    machine = box.machine
    for user in (LISTENER, STRANGER):
        machine.run("useradd", "--create-home", user)
    (machine.root / "root/rokuon.deb").write_bytes(box.deb.read_bytes())
    begun = time.monotonic()
    done = machine.ask("apt-get", "install", "--yes", "--no-install-recommends", "/root/rokuon.deb", timeout=300)
    if not box.found(done.returncode == 0, "install", f"{time.monotonic() - begun:.0f} s: {said(done)}"):
        raise Broken("nothing more can be tried")
    known = [machine.run("getent", kind, "rokuon", check=False) for kind in ("passwd", "group")]
    box.found(all(known), "install user", ", ".join(known))
    machine.run("usermod", "--append", "--groups", "rokuon", LISTENER)
    box.found((machine.root / CONFIGURATION).is_file(), "install configuration", f"/{CONFIGURATION}")
    settings = (machine.root / CONFIGURATION).read_text()
    (machine.root / CONFIGURATION).write_text(settings.replace('#listen = ""', f'listen = "{LISTEN}"'))
    version = machine.ask("rokuon", "--version", user=LISTENER)
    box.found(version.returncode == 0, "install command", last(version.stdout or version.stderr))
    before = {unit: machine.show(unit, "ActiveState").get("ActiveState") for unit in (CAPTURE, CORRELATE)}
    box.found("active" not in before.values(), "install starts nothing", before)

    begun = time.monotonic()
    enabled = machine.ask("systemctl", "enable", "--now", CAPTURE)
    wrong = last(enabled.stderr) if enabled.returncode else box.active(20)
    if not box.found(not wrong, "start", wrong or f"{', '.join(UNITS)} active after {time.monotonic() - begun:.1f} s"):
        for unit in UNITS:  # those that the first does not bring: so that other steps can be tried
            machine.ask("systemctl", "enable", "--now", unit)
    places = [f"/var/lib/rokuon{below}" for below in ("", "/recordings", "/spool")]
    where = machine.run("stat", "-c", "%n %U:%G %a", *places, check=False)
    modes = [line.split() for line in where.splitlines()]
    box.found(modes and all(owner == "rokuon:rokuon" and mode.endswith("0") for _, owner, mode in modes), "directories",
              where.replace("\n", ", "))
    processes = machine.run("ps", "-o", "user=,pid=,args=", "-u", "rokuon", check=False).splitlines()
    box.found(bool(processes), "processes", "; ".join(" ".join(p.split())[:70] for p in processes))
    box.found(box.capturing() >= 0, "start capture", box.state("capture-host0").get("interfaces") or "no state file tells")
    security(box)


def security(box: Appliance) -> None:
    """What `systemd-analyze security` says of the units as they run."""
    for unit, bound in EXPOSURE.items():
        said = box.machine.run("systemd-analyze", "security", "--no-pager", unit, check=False)
        level = re.search(r"exposure level for \S+: ([\d.]+)", said)
        box.found(level and float(level[1]) <= bound, f"security {unit.split('.')[0].split('@')[0]}",
                  f"{level[1]} of {bound} at most" if level else last(said))


def expect(box: Appliance, names: tuple[str, ...], calls: list[Json]) -> list[str]:
    """What is wrong about calls, by what their captures' scenarios say."""
    wrong, by_id = [], {}  # type: list[str], dict[str, list[Json]]
    for call in calls:
        for leg in call["legs"]:
            by_id.setdefault(leg["call_id"], []).append(call)
    for name in names:
        for want in json.loads((PCAPS / f"{name}.expected.json").read_text())["calls"]:
            found = by_id.get(want["call_id"], [])
            if len(found) != 1:
                wrong.append(f"{want['call_id']} is in {len(found)} calls")
                continue
            call, events = found[0], Counter(event["type"] for event in found[0]["events"])
            got = {**call, "dtmf": events["dtmf"], "holds": events["hold"], "streams": sorted(map(facts_of, call["streams"]))}
            want["streams"] = sorted(map(facts_of, want["streams"]))
            for key in want.keys() - {"call_id"}:
                value = {k: got[key][k] for k in want[key]} if isinstance(want[key], dict) else got[key]
                if value != want[key]:
                    wrong.append(f"{want['call_id']}: {key} {value}, not {want[key]}")
    return wrong


def facts_of(stream: Json) -> tuple[object, ...]:
    return (*(stream[key] for key in ("direction", "src", "dst", "codec", "packets", "lost")), tuple(stream["vlan"]))


def calls(box: Appliance) -> None:
    """Calls of every kind on the wire, found by who may find them."""
    names = ("office-morning", *SHORT)
    with dumping(box.machine, "/root/beside.pcap"):
        seconds = sum(replay(box.machine, PCAPS / f"{name}.pcap") for name in names)
        sent = sum(len(read(PCAPS / f"{name}.pcap")) for name in names)
        time.sleep(1)
    wanted = {want["call_id"] for name in names for want in json.loads((PCAPS / f"{name}.expected.json").read_text())["calls"]}
    begun = time.monotonic()
    found = box.wait_calls(wanted, 60)
    waited = time.monotonic() - begun
    came = len(read(box.machine.root / "root/beside.pcap"))
    wrong = expect(box, names, found)
    box.found(not wrong, "calls", brief(wrong) or f"{len(wanted)} calls of {len(names)} captures as expected, {sent} packets in "
              f"{seconds:.0f} s (tcpdump beside it: {came}), the last {waited:.1f} s after the last packet")
    own = {call["id"] for call in found if wanted & {leg["call_id"] for leg in call["legs"]}}
    more = [call for call in found if call["id"] not in own
            and any(stream["src"].startswith(("10.20.", "192.0.2.")) for stream in call["streams"])]
    box.found(not more, "calls, none beyond", [(c["id"], c["state"]) for c in more] or "none")
    denied, shown = (box.rokuon(*where, "calls", "--json", user=STRANGER) for where in (("--data", "/var/lib/rokuon"), ()))
    box.found(denied.returncode == 4 and denied.stderr.count("\n") == 1 and shown.stdout.strip() in ("", "[]"),
              "calls, by a stranger", f"exit {denied.returncode}: {last(denied.stderr)}")
    paths = [box.data / call["audio"]["path"] for call in found if call["audio"]]
    modes = {f"{path.stat().st_mode & 0o777:o}" for path in paths if path.exists()}
    box.found(modes == {"640"} and all(path.exists() for path in paths), "calls, files",
              f"{len(paths)} with modes {', '.join(modes)}")


def codecs(box: Appliance) -> None:
    """Each codec decoded under the unit's own sandbox: what is heard on both sides of calls that `calls` has sent."""
    found = {codec: call for call in box.calls() if call["state"] == "answered" and call["audio"]
             for codec in {stream["codec"] for stream in call["streams"]} if codec in ("PCMU", "PCMA", "G722", "opus")
             and "appliance-" not in call["legs"][0]["call_id"]}
    for codec in ("PCMU", "PCMA", "G722", "opus"):
        if codec not in found:
            box.found(False, f"codec {codec}", "no answered call with audio")
            continue
        audio = found[codec]["audio"]
        rate, sides = heard(box.data / audio["path"])
        box.found(min(sides) > 0.2, f"codec {codec}",
                  f"{audio['format']} {rate} Hz, {audio['duration_s']:.1f} s, heard in {sides[0]:.0%} and {sides[1]:.0%} of it")


def load(box: Appliance) -> None:
    """Many calls at once, every fact of every one."""
    capture = box.work / "load.pcap"
    manifest = make_load(capture, "--calls", box.load_calls, "--seconds", 15, "--spread", 15, "--mixed", "--seed", 5)
    spec = importlib.util.spec_from_file_location("facts", FACTS)
    if spec is None or spec.loader is None or not FACTS.exists():
        raise Broken("../shared/checks/facts.py is not here")
    checks = importlib.util.module_from_spec(spec)
    sys.modules["facts"] = checks
    spec.loader.exec_module(checks)
    before = {call["id"] for call in box.calls()}
    seconds = replay(box.machine, capture)
    ids = {leg["call_id"] for leg in manifest["calls"]}
    begun = time.monotonic()
    box.wait_calls(ids, 90)
    waited = time.monotonic() - begun
    time.sleep(2)
    mine = [call for call in box.calls() if call["id"] not in before]
    judged = checks.against_manifest(manifest, mine, live=True)
    state = box.state("capture-host0")
    dropped = [i.get("dropped_by_kernel") for i in state.get("interfaces", [])]
    box.found(judged.right == judged.total, "load",
              f"{judged.right} of {judged.total} facts of {len(manifest['calls'])} calls in {seconds:.0f} s, "
              f"all there {waited:.1f} s later; dropped by the kernel: {dropped} {brief(judged.wrong)}")
    capture.unlink()


def metrics(box: Appliance) -> None:
    """What the appliance tells: metrics, live, doctor, stats, configuration."""
    capture = PCAPS / "office-morning.pcap"
    sending = threading.Thread(target=replay, args=(box.machine, capture), daemon=True)
    sending.start()
    time.sleep(12)
    live = box.rokuon("live", "--json")
    try:
        told = json.loads(live.stdout)
        box.found(live.returncode == 0 and told, "live", f"{len(live.stdout)} characters of JSON: {flat(live.stdout)}")
    except ValueError:
        box.found(False, "live", f"exit {live.returncode}: {last(live.stderr)}")
    doctor = box.machine.ask("rokuon", "doctor", "-i", "host0", "--duration", 10, "--json", timeout=90)
    try:
        told = json.loads(doctor.stdout)
        problems = [f["text"] for f in told["findings"] if f["level"] == "problem"]
        box.found(doctor.returncode in (0, 1), "doctor", f"exit {doctor.returncode}: {told['summary']} {problems}")
    except ValueError:
        box.found(False, "doctor", f"exit {doctor.returncode}: {last(doctor.stderr)}")
    sending.join()
    time.sleep(5)
    fetch = f"import urllib.request as u; print(u.urlopen('http://{LISTEN}/metrics', timeout=5).read().decode())"
    got = box.machine.ask("python3", "-c", fetch)
    lines = [line for line in got.stdout.splitlines() if line and line[0] != "#"]
    names = {re.split(r"[{ ]", line)[0] for line in lines}
    calls_told = [line for line in lines if re.match(r"rokuon_calls\w*\{", line) and float(line.rsplit(" ", 1)[1]) > 0]
    box.found(bool(calls_told), "metrics",
              f"{LISTEN}: {len(names)} series names; {'; '.join(calls_told[:3]) or last(got.stderr or got.stdout)}")
    for arguments in (("stats",), ("config",), ("config", "--check"), ("plugins",)):
        done = box.rokuon(*arguments)
        box.found(done.returncode == 0, " ".join(arguments), f"exit {done.returncode}: {said(done)}")
    reloaded = box.machine.ask("systemctl", "reload", CAPTURE, CORRELATE)
    box.found(reloaded.returncode == 0 and not box.active(5, (CAPTURE, CORRELATE)), "reload",
              last(reloaded.stderr) if reloaded.stderr else "SIGHUP taken")


def remove(box: Appliance) -> None:
    """Removal and purge: recordings stay, and it is said."""
    machine = box.machine
    before = sorted(str(p.relative_to(box.data)) for p in (box.data / "recordings").rglob("*") if p.is_file())
    for how in ("remove", "purge"):
        done = machine.ask("apt-get", how, "--yes", "rokuon", timeout=120)
        told = [line for line in (done.stdout + done.stderr).splitlines()
                if "/var/lib/rokuon" in line or "recording" in line.lower()]
        after = sorted(str(p.relative_to(box.data)) for p in (box.data / "recordings").rglob("*") if p.is_file())
        box.found(done.returncode == 0 and after == before and before and told, how,
                  f"exit {done.returncode}, {len(after)} files of {len(before)} left; said: {told[-1] if told else said(done)}")
        running = machine.run("ps", "-o", "args=", "-u", "rokuon", check=False)
        box.found(not running, f"{how} stops", running.replace("\n", "; ")[:200] or "no process of the user is left")
        if how == "remove":
            box.found((machine.root / CONFIGURATION).exists(), "remove keeps", f"/{CONFIGURATION}")
    places = ("usr/bin/rokuon", "usr/lib/systemd/system/rokuon.service", "opt/rokuon", "usr/lib/rokuon", str(CONFIGURATION))
    left = [path for path in places if (machine.root / path).exists() or (machine.root / path).is_symlink()]
    box.found(not left, "purge leaves nothing", left or "program, units and configuration are gone")
    state = machine.run("systemctl", "is-system-running", check=False)
    box.found(state == "running", "system after it", state)


STEPS: dict[str, Callable[[Appliance], None]] = {
    "install": install, "calls": calls, "codecs": codecs, "load": load, "metrics": metrics,
    "restart": outages.restart, "kill": outages.kill, "kills": outages.kills,
    "reboot": outages.reboot, "power": outages.power, "upgrade": outages.upgrade, "disk": space.disk, "remove": remove}
