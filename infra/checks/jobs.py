"""What the clusters run: that each command's script and config are there, and that the config fits job and cluster."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from animatediff.config import Config, load
from animatediff.errors import UserError
from animatediff.rendering.catalog.reading.catalog_files import read as read_catalog
from infra.checks.fault import Fault
from infra.checks.kubernetes.ray_groups import groups
from infra.checks.tree import CONFIGS, Manifest, Tree
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig

MOUNTED_AT = "/etc/animatediff/"
_JOBS: dict[str, type[Config]] = {
    "curate": CurateConfig,
    "ingest": IngestConfig,
    "train": TrainJobConfig,
    "animate": AnimateConfig,
    "score": ScoreConfig,
}
_COMMAND = re.compile(r"python (?P<script>[\w./-]+\.py)(?P<flags>[^\n]*)")
_CONFIG = re.compile(r"--config[ =](?P<uri>\S+)")


class Command(NamedTuple):
    """A job's command in a file."""

    file: str
    place: str
    script: str
    config: str
    """The config's name in the repository; empty where there is none."""


def job_scripts(tree: Tree) -> Iterator[Fault]:
    """Check that a job's command names a script that is there."""
    for command in _commands(tree):
        if not (command.script and tree.path(command.script).is_file()):
            wrong = f"there is no {command.script}" if command.script else "it runs no script of the project"
            yield Fault(command.file, command.place, wrong, "name one of pipelines/")


def job_configs(tree: Tree) -> Iterator[Fault]:
    """Check that a job's command names a config that is there, and that its config can be read."""
    for command in _commands(tree):
        if not tree.text(command.config):
            yield Fault(command.file, command.place, f"there is no config {command.config}".strip(), "name one")
    for name in tree.matching(f"{CONFIGS}/*.yaml"):
        try:
            if (job := Path(name).stem) in _JOBS:
                load(_JOBS[job], str(tree.path(name)))
            else:
                read_catalog(str(tree.path(name)))
        except UserError as error:
            wrong = str(error).removeprefix(f"{tree.path(name)}: ")
            yield Fault(name, "", wrong, "python pipelines/JOB.py --help has the fields")


def mounted_configs(tree: Tree) -> Iterator[Fault]:
    """Check that what a config names of its own folder in the cluster is mounted with it."""
    for _, built in tree.overlays():
        for manifest in (each for each in built if each.kind == "ConfigMap"):
            data = manifest.document.get("data") or {}
            for name, text in data.items():
                for mentioned in re.findall(rf"{MOUNTED_AT}([\w.-]+)", str(text)):
                    if mentioned not in data:
                        at = f"{manifest.name}, {name}"
                        yield Fault(manifest.file, at, f"there is no {mentioned}", "add it to the configMapGenerator")


def sizes_are_said(tree: Tree) -> Iterator[Fault]:
    """Check that a config says how many workers, and whether on GPUs: at first there is no node to count."""
    fields = {
        "curate": ("num_scanners", "num_captioners", "use_gpu"),
        "ingest": ("num_decoders", "num_encoders", "use_gpu"),
        "train": ("scaling.num_workers", "scaling.use_gpu"),
        "animate": ("num_actors", "use_gpu"),
    }
    for job, named in fields.items():
        name = f"{CONFIGS}/{job}.yaml"
        config = _config(tree, name)
        for field in named if config else ():
            value: object = config
            for part in field.split("."):
                value = getattr(value, part)
            if value is None:
                yield Fault(name, field, "the job would count a cluster that has no node yet", "say it")


def job_fits_cluster(tree: Tree) -> Iterator[Fault]:
    """Check that a job asks for no more GPUs than its cluster can have: it would wait until its deadline."""
    for manifest in tree.manifests("RayJob"):
        job = str((manifest.document.get("metadata") or {}).get("name"))
        wanted, most = _gpus_wanted(_config(tree, f"{CONFIGS}/{job}.yaml")), _most_gpus(manifest)
        if wanted > most:
            at = f"{manifest.name}, spec.rayClusterSpec.workerGroupSpecs"
            yield Fault(manifest.file, at, f"{wanted} GPUs are wanted, {most} at most are there", "change either")


def _commands(tree: Tree) -> Iterator[Command]:
    for manifest in (each for each in tree.sources if each.kind == "RayJob"):
        yield _command(manifest.file, f"{manifest.name}, spec.entrypoint", str(manifest.spec.get("entrypoint", "")))
    for name in tree.matching("infra/skypilot/*.yaml"):
        for document in tree.documents(name):
            yield _command(name, "run", str(document.get("run", "")))


def _command(file: str, place: str, text: str) -> Command:
    match = _COMMAND.search(text)
    config = _CONFIG.search(match["flags"]) if match else None
    uri = config["uri"] if config else ""
    return Command(file, place, match["script"] if match else "", f"{CONFIGS}/{Path(uri).name}" if uri else "")


def _config(tree: Tree, name: str) -> Config | None:
    """Return a job's config; None where there is none, or none that can be read, which `job_configs` tells."""
    try:
        return load(_JOBS[Path(name).stem], str(tree.path(name))) if tree.text(name) else None
    except (UserError, KeyError):
        return None


def _gpus_wanted(config: Config | None) -> int:
    if isinstance(config, IngestConfig):
        return (config.num_encoders or 0) if config.use_gpu else 0
    if isinstance(config, AnimateConfig):
        return (config.num_actors or 0) if config.use_gpu else 0
    if isinstance(config, TrainJobConfig):
        return (config.scaling.bounds or (0, 0))[0] if config.scaling.use_gpu else 0
    return 0


def _most_gpus(manifest: Manifest) -> int:
    scales = (manifest.spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling")
    pods = "maxReplicas" if scales else "replicas"
    return sum(group.num_gpus * int(group.spec.get(pods, 0)) for group in groups(manifest) if not group.is_head)
