"""The laptop's platform: its compose file, and what it mounts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.checks.fault import Fault
from infra.checks.tools import run, tool
from infra.checks.tree import Tree

COMPOSE = "infra/compose/compose.yaml"
NAMES = "infra/compose/.env.example"
_LOOPBACK = "127.0.0.1:"


def variables(tree: Tree) -> dict[str, str]:
    """Return what `.env.example` names, with its values, which should be empty."""
    pairs = (line.partition("=") for line in tree.text(NAMES).splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def compose_config(tree: Tree) -> Iterator[Fault]:
    """Check that compose takes the file, with the variables of `.env.example` and no others."""
    if not tree.text(COMPOSE):
        return
    environment = {"PATH": os.environ.get("PATH", "")} | dict.fromkeys(variables(tree), "any")
    command = [tool("docker-compose"), "--env-file", os.devnull, "-f", str(tree.path(COMPOSE)), "config", "--quiet"]
    done = run(command, env=environment)
    for line in dict.fromkeys(done.stderr.strip().splitlines()):
        yield Fault(COMPOSE, "", line.replace(f"{tree.root}/", ""), f"docker compose -f {COMPOSE} config has to pass")


def compose_mounts(tree: Tree) -> Iterator[Fault]:
    """Check that what a service mounts of the repository is there: Docker would make an empty folder in its place."""
    for service, spec in _services(tree):
        for volume in spec.get("volumes") or []:
            source = str(volume).partition(":")[0]
            if source.startswith(".") and not (tree.path(COMPOSE).parent / source).exists():
                wanted = Path(os.path.normpath(Path(COMPOSE).parent / source)).as_posix()
                yield Fault(COMPOSE, service, f"there is no {wanted}", "mount what is there")


def compose_ports(tree: Tree) -> Iterator[Fault]:
    """Check that a service is published on this machine alone."""
    for service, spec in _services(tree):
        for port in spec.get("ports") or []:
            if not str(port).startswith(_LOOPBACK):
                yield Fault(COMPOSE, service, f"port {port} is open to the network", f"write {_LOOPBACK}{port}")


def compose_token(tree: Tree) -> Iterator[Fault]:
    """Check that Ray's services ask for a token."""
    for service, spec in _services(tree):
        environment = spec.get("environment") or {}
        if service.startswith("ray-") and environment.get("RAY_AUTH_MODE") != "token":
            yield Fault(COMPOSE, service, "whoever reaches it may run code", "RAY_AUTH_MODE: token")


def _services(tree: Tree) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in tree.documents(COMPOSE):
        yield from (document.get("services") or {}).items()
