"""What `ray up`, SkyPilot and `ray job submit --runtime-env` read."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from infra.checks.fault import Fault
from infra.checks.json_schema import misfits, schema
from infra.checks.tree import Tree

_TOKEN = "/home/ray/.ray/auth_token"
_RUNTIME_ENV_KEYS = {
    *("working_dir", "excludes", "py_modules", "env_vars", "pip", "uv", "conda", "config", "image_uri"),
    *("worker_process_setup_hook", "py_executable", "nsight"),
}
"""Ray takes others as well, and does nothing with them."""


def ray_up_schema(tree: Tree) -> Iterator[Fault]:
    """Check that a file for `ray up` has no field that Ray's own schema does not know."""
    known = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    for name in tree.matching("infra/clusters/*.yaml"):
        for document in tree.documents(name):
            yield from misfits(name, document, known)


def ray_up_config(tree: Tree) -> Iterator[Fault]:
    """Check that Ray's autoscaler takes the file once its defaults are filled in."""
    for name in tree.matching("infra/clusters/*.yaml"):
        for document in tree.documents(name):
            try:
                validate_config(prepare_config(copy.deepcopy(document)))
            except Exception as error:  # of many classes
                yield Fault(name, "", f"{type(error).__name__}: {error}".split("\n")[0], "ray up would say the same")


def ray_up_token(tree: Tree) -> Iterator[Fault]:
    """Check that the nodes have a token and ask for it, and the dashboard listens on the head alone."""
    for name in tree.matching("infra/clusters/*.yaml"):
        for document in tree.documents(name):
            options = (document.get("docker") or {}).get("run_options") or []
            if _TOKEN not in (document.get("file_mounts") or {}):
                yield Fault(name, "file_mounts", "the nodes have no token", f"mount one at {_TOKEN}")
            if not any("RAY_AUTH_MODE=token" in option for option in options):
                yield Fault(name, "docker.run_options", "whoever reaches it may run code", "--env RAY_AUTH_MODE=token")
            if not any("--dashboard-host=127.0.0.1" in each for each in document.get("head_start_ray_commands") or []):
                yield Fault(name, "head_start_ray_commands", "the dashboard is public", "--dashboard-host=127.0.0.1")


def ray_up_head(tree: Tree) -> Iterator[Fault]:
    """Check that the head of `ray up` has no CPUs for work and is no spot node."""
    for name in tree.matching("infra/clusters/*.yaml"):
        for document in tree.documents(name):
            head = (document.get("available_node_types") or {}).get(document.get("head_node_type")) or {}
            if (head.get("resources") or {}).get("CPU") != 0:
                yield Fault(name, "available_node_types", "work can be placed on the head", "its resources: {CPU: 0}")
            node = head.get("node_config") or {}
            if "InstanceMarketOptions" in node or "scheduling" in node:
                yield Fault(name, "available_node_types", "the head may be a spot node", "take it on demand")


def skypilot_schema(tree: Tree) -> Iterator[Fault]:
    """Check that a task of SkyPilot's has the fields that this project uses, and no others."""
    for name in tree.matching("infra/skypilot/*.yaml"):
        for document in tree.documents(name):
            yield from misfits(name, document, schema("skypilot.yaml"))


def skypilot_mounts(tree: Tree) -> Iterator[Fault]:
    """Check that the files that a task of SkyPilot's sends are there."""
    for name in tree.matching("infra/skypilot/*.yaml"):
        for document in tree.documents(name):
            for place, source in (document.get("file_mounts") or {}).items():
                if not tree.path(str(source)).exists():
                    yield Fault(name, f"file_mounts.{place}", f"there is no {source}", "name what is there")


def runtime_env_keys(tree: Tree) -> Iterator[Fault]:
    """Check that a runtime_env has no key that Ray does not know: it would take it in silence."""
    for name in tree.matching("infra/runtime_env/*.yaml"):
        for document in tree.documents(name):
            for key in set(document) - _RUNTIME_ENV_KEYS:
                yield Fault(name, key, "Ray knows no such key", f"known are {', '.join(sorted(_RUNTIME_ENV_KEYS))}")


def runtime_env_values(tree: Tree) -> Iterator[Fault]:
    """Check that Ray takes the values of a runtime_env."""
    for name in tree.matching("infra/runtime_env/*.yaml"):
        for document in tree.documents(name):
            try:
                RuntimeEnv(**{**document, "working_dir": str(tree.root)})
            except (TypeError, ValueError) as error:
                yield Fault(name, "", str(error).split("\n")[0], "ray job submit would say the same")
