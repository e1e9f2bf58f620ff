"""Hosts on one machine: network namespaces with an address and a `/tmp` of their own, on one switch.

Needs root, and iproute2. A host's processes see no other host's ports, and its link can be cut, restored and slowed.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_SUBNET = "10.213.7"
_OWN_NUMBER = 254


def ip(*arguments: str) -> str:
    """Run iproute2's `ip` and return what it prints."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def why_not() -> str | None:
    """Return why there can be no network here; None if there can."""
    try:
        ip("netns", "add", "ad-try")
        ip("netns", "del", "ad-try")
    except OSError as error:
        return f"network namespaces need root and iproute2: {error}"
    return None


class Host:
    """A host of a `Network`.

    Attributes:
        address: its IPv4 address.
    """

    def __init__(self, network: "Network", name: str, number: int) -> None:
        self.address = f"{_SUBNET}.{number}"
        self._name = f"ad-{name}"
        self._namespace, self._port, self._switch = f"{network.prefix}-{name}", f"{name}0", network.switch
        self._processes: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", self._namespace)
        ip("link", "add", self._port, "netns", self._switch, "type", "veth", "peer", "eth0", "netns", self._namespace)
        ip("-n", self._switch, "link", "set", self._port, "master", "switch", "up")
        ip("-n", self._namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self._namespace, "link", "set", device, "up")

    def start(self, command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
        """Start a process on this host, its output to the end of a file."""
        # A /tmp of its own, so that nothing is shared through local folders by mistake; and a name of its own that
        # resolves to its address, as a pod's does: Gloo connects to what the machine's own name resolves to.
        hosts = log.with_name(f"hosts-{self._name}")
        hosts.write_text(f"127.0.0.1 localhost\n{self.address} {self._name}\n")
        inside = " && ".join(
            (
                f"hostname {self._name}",
                f"mount --bind {hosts} /etc/hosts",
                "mount -t tmpfs -o size=2g tmpfs /tmp",
                f"exec {shlex.join(command)}",
            )
        )
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace, "unshare", "--mount", "--uts", "sh", "-c", inside],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def is_running(self) -> bool:
        """Whether any process runs on it."""
        return bool(ip("netns", "pids", self._namespace).split())

    def cut(self) -> None:
        """Pull the cable: whatever others have open to it hears nothing more, and no refusal either."""
        ip("-n", self._switch, "link", "set", self._port, "down")

    def restore(self) -> None:
        """Put the cable back."""
        ip("-n", self._switch, "link", "set", self._port, "up")

    def slow(self, kbit_s: int) -> None:
        """Let so many kilobits a second out of it; a host that is a store hands out its objects that slowly."""
        ip_tc = ["ip", "netns", "exec", self._namespace, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf"]
        subprocess.run([*ip_tc, "rate", f"{kbit_s}kbit", "burst", "32kb", "latency", "400ms"], check=True)

    def hasten(self) -> None:
        """Let it be as fast as it was."""
        subprocess.run(
            ["ip", "netns", "exec", self._namespace, "tc", "qdisc", "del", "dev", "eth0", "root"], check=True
        )

    def kill(self) -> None:
        """Let the host vanish: its link first, so that nobody is told, then every process on it."""
        self.cut()
        while pids := ip("netns", "pids", self._namespace).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        for process in self._processes:
            process.wait()
        self._processes.clear()


class Network:
    """A switch, the hosts on it, and this process's own place there; as a context, nothing of it is left behind."""

    def __init__(self) -> None:
        self.prefix = f"ad{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        ip("-n", self.switch, "link", "set", "switch", "up")
        ip("link", "add", self.prefix, "type", "veth", "peer", "own0", "netns", self.switch)
        ip("-n", self.switch, "link", "set", "own0", "master", "switch", "up")
        ip("addr", "add", f"{_SUBNET}.{_OWN_NUMBER}/24", "dev", self.prefix)
        ip("link", "set", self.prefix, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.kill()
        for namespace in ip("netns", "list").split():
            if namespace.startswith(f"{self.prefix}-"):
                ip("netns", "del", namespace)

    def add(self, name: str) -> Host:
        """Return a new host; its name must be short, and no other's."""
        self.hosts[name] = Host(self, name, len(self.hosts) + 1)
        return self.hosts[name]
