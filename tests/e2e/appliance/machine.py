"""A Debian 12 of one's own that boots: a root made by debootstrap, systemd-nspawn, a disk for the data, a wire into it.

Whoever uses it has to be root in network, mount and process namespaces of its own (`scripts/try-appliance` sees to that), so that
nothing sent can go elsewhere and nothing stays behind, however it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BASE = ("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "passwd", "util-linux", "tcpdump")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "ip", "mount", "tar", "dpkg-deb", "tcpreplay", "mkfs.ext4",
         "fsfreeze")
REBOOT = 133  # how systemd-nspawn --keep-unit ends when the system inside wants to start again
INTERFACE = "host0"
DATA = Path("var/lib/rokuon")


class Broken(Exception):  # noqa: N818
    """The machine does not do what any machine does; its message says what."""


def missing() -> str:
    """Why no machine can be booted here; "" where one can."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        return f"needs {', '.join(lacking)}"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


def root_name(packages: Sequence[str]) -> str:
    """Of the tarball that holds these packages."""
    return f"debian-12-{hashlib.sha256(' '.join(sorted(packages)).encode()).hexdigest()[:12]}.tar"


def packages_for(deb: Path) -> list[str]:
    """What the system has to have so that the package can be installed without a network: the first of each alternative."""
    listed = subprocess.run(["dpkg-deb", "-f", deb, "Depends", "Pre-Depends"], capture_output=True, text=True, check=True).stdout
    names = [re.split(r"[\s|(:]", part.strip())[0] for line in listed.splitlines() for part in line.split(":", 1)[-1].split(",")]
    return sorted({*BASE, *filter(None, names)})


def make_root(root: Path, packages: Sequence[str], cache: Path | None) -> str:
    """An unpacked Debian 12 in `root` that has these packages: from a tarball in `cache`, or made and kept there.

    Returns where it came from. Raises Broken if debootstrap fails.
    """
    tarball = cache / root_name(packages) if cache else None
    if tarball and tarball.exists():
        root.mkdir()
        subprocess.run(["tar", "-xf", tarball, "-C", root, "--numeric-owner", "--xattrs"], check=True)
        return f"from {tarball.name}"
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(CODENAME) $(REPO_URI)"],
                            capture_output=True, text=True, check=False).stdout
    mirrors = [line.split()[3] for line in listed.splitlines()
               if line.startswith("Packages ") and "bookworm" in line.split()[1:3] and len(line.split()) == 4]
    log = root.with_suffix(".log")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", "bookworm", str(root), *mirrors[:1]]
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=out, check=False)
    if done.returncode:
        raise Broken("debootstrap: " + " / ".join(log.read_text(errors="replace").splitlines()[-3:]))
    for path in (root / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()
    if tarball:
        half = tarball.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-cf", half, "-C", root, "--numeric-owner", "--xattrs", "."], check=True)
        half.rename(tarball)
    return "from debootstrap"


def make_ready(root: Path) -> None:
    """Nothing is fetched by itself, the journal is kept. No word of the interface: the appliance sees to a mirror port itself."""
    (root / "etc/hostname").write_text("appliance\n")
    (root / "var/log/journal").mkdir(exist_ok=True)
    chroot(root, "systemctl", "--quiet", "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer",
           "fstrim.timer", "getty@tty1.service")


def chroot(root: Path, *command: str) -> None:
    subprocess.run(["chroot", root, *command], check=True, capture_output=True)


class Disk:
    """A file system of some size in a file, mounted beside the machine and bound to the data directory inside."""

    def __init__(self, work: Path, megabytes: int) -> None:
        self.image, self.mounted, self.megabytes = work / f"disk-{megabytes}.img", work / f"disk-{megabytes}", megabytes
        with self.image.open("wb") as image:
            image.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)
        self.mounted.mkdir()
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.mounted], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.mounted], check=True)

    def lose_power(self, processes_end: Callable[[], None]) -> None:
        """What the disk has now and not a byte more: a copy of the device, not of what the kernel still holds, goes on."""
        processes_end()
        cut = self.image.with_suffix(".cut")
        subprocess.run(["cp", "--sparse=always", self.image, cut], check=True)
        self.unmount()
        cut.rename(self.image)
        self.mount()

    def free(self) -> int:
        """Bytes that can be written."""
        found = os.statvfs(self.mounted)
        return found.f_bavail * found.f_frsize


class Machine:
    """The booted system. Everything in it is asked through `run`."""

    disk: Disk | None = None

    def __init__(self, root: Path, name: str, group: str) -> None:
        self.root, self.name = root, name
        self.outside = f"ve-{name}"[:15]  # as systemd-nspawn calls it
        self.log = root.with_suffix(".console")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroup = _own_cgroup(group)
        self._cgroup.mkdir(exist_ok=True)

    def boot(self, timeout: float = 60) -> float:
        """Starts it; seconds until systemd says `running`. Raises Broken if it does not."""
        begun = time.monotonic()
        bind = [f"--bind={self.disk.mounted}:/{DATA}"] if self.disk else []
        command = ["systemd-nspawn", "--quiet", "-D", str(self.root), "-b", "--private-network", "--network-veth",
                   "--register=no", "--keep-unit", "--console=pipe", f"--machine={self.name}", *bind]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(["sh", "-c", f'echo $$ >"{self._cgroup}/cgroup.procs"; exec "$@"', "sh", *command],
                                             stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        until = begun + timeout
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise Broken(f"systemd-nspawn ended: {self.console()}")
            self._leader = _child(self._process.pid)
            if self._leader and self.wire_up():
                state = self.run("systemctl", "is-system-running", check=False)
                if state in ("running", "degraded"):
                    break
            time.sleep(0.2)
        else:
            raise Broken(f"not up within {timeout:g} s: {self.console()}")
        if state == "degraded":
            failed = self.run("systemctl", "--failed", "--plain", "--no-legend", check=False)
            raise Broken(f"degraded: {failed}")
        return time.monotonic() - begun

    def up(self) -> bool:
        return bool(self._process and self._process.poll() is None and self._leader)

    def wire_up(self) -> bool:
        """The near end of the wire, up; False while there is none."""
        return not subprocess.run(["ip", "link", "set", self.outside, "up"], capture_output=True, check=False).returncode

    def console(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-4:])

    def command(self, *command: object, user: str = "") -> list[str]:
        """A command line that runs the command inside."""
        become = ["runuser", "-u", user, "--"] if user else []
        return ["nsenter", "--target", str(self._leader), "--all", "--", "/usr/bin/env", "-i", "-C", "/", "LANG=C.UTF-8",
                "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive", *become, *map(str, command)]

    def ask(self, *command: object, user: str = "", timeout: float = 120, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command inside; its status, output and error."""
        try:
            return subprocess.run(self.command(*command, user=user), capture_output=True, text=True, check=False, timeout=timeout,
                                  errors="replace", input=stdin)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(list(map(str, command)), 124, "", f"not done after {timeout:g} s")

    def run(self, *command: object, user: str = "", check: bool = True, timeout: float = 120) -> str:
        """Standard output of a command inside. Raises Broken where it fails, if `check`."""
        done = self.ask(*command, user=user, timeout=timeout)
        if check and done.returncode:
            said = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise Broken(f"{' '.join(map(str, command))}: exit {done.returncode}: {said}")
        return done.stdout.strip()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names), check=False).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str, lines: int = 5) -> str:
        """The newest lines of a unit."""
        return self.run("journalctl", "--no-pager", "-q", "-o", "cat", "-n", lines, "-u", unit, check=False).replace("\n", " / ")

    def reboot(self) -> float:
        """By systemctl; seconds until it is up again."""
        begun = time.monotonic()
        self.run("systemctl", "reboot", check=False)
        status = self._wait(90)
        if status != REBOOT:
            raise Broken(f"no reboot: systemd-nspawn ended with {status}: {self.console()}")
        self.boot()
        return time.monotonic() - begun

    def off(self) -> None:
        """In order."""
        if self._process and self._process.poll() is None:
            self.run("systemctl", "poweroff", check=False)
            with contextlib.suppress(Broken):
                self._wait(90)
        self.die()

    def die(self) -> None:
        """At once, without a word to anybody inside."""
        if self._process is None:
            return
        self._process.kill()
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        self._process.wait()
        for _ in range(100):
            if not self._leader or not Path(f"/proc/{self._leader}").exists():
                break
            _reap()
            time.sleep(0.05)
        self._process, self._leader = None, 0
        subprocess.run(["ip", "link", "del", self.outside], capture_output=True, check=False)
        remove_cgroups(self._cgroup)

    def lose_power(self) -> None:
        """The machine stops, and its data disk has what had reached it."""
        if self.disk:
            self.disk.lose_power(self.die)
        else:
            self.die()

    def _wait(self, timeout: float) -> int:
        assert self._process
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Broken(f"still there after {timeout:g} s: {self.console()}") from None
        self._process, self._leader = None, 0
        return status

def _child(pid: int) -> int:
    """The first process that a process started; 0 for none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    for child in children:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return 0


def _reap() -> None:
    """As the first process of its namespace, this one inherits what the machine leaves."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _own_cgroup(name: str) -> Path:
    """A control group for the machine, so that several can be tried on one computer."""
    top = Path("/sys/fs/cgroup/systemd")
    return (top if top.is_dir() else top.parent) / name


def remove_cgroups(top: Path) -> None:
    """All below `top`, deepest first; those in use stay."""
    for path, _, _ in os.walk(top, topdown=False):
        if Path(path) != top:
            with contextlib.suppress(OSError):
                Path(path).rmdir()


def remove_own_cgroup(name: str) -> None:
    """That of a machine that is no more."""
    for _ in range(20):
        remove_cgroups(_own_cgroup(name))
        with contextlib.suppress(OSError):
            _own_cgroup(name).rmdir()
        if not _own_cgroup(name).exists():
            return
        time.sleep(0.1)
