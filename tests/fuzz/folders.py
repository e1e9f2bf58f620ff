"""Model folders, as the plan of a catalog checks a base and as a worker loads it."""

import json
import os
import random
import shutil
from pathlib import Path

from animatediff.errors import UserError
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.checks.files import FileInField, check_files
from animatediff.rendering.checks.models import ModelChecks
from animatediff.weights.base import load_text_encoder, load_tokenizer, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.checkpoints import content_hash
from tests.fuzz.harness import Subject
from tests.fuzz.mutations import mutate_bytes, mutate_tree, to_json
from tests.fuzz.weights import MOTION_MODULE, SHIPPED, mutate

_LOADERS = {"unet": load_unet, "vae": load_vae, "text_encoder": load_text_encoder, "tokenizer": load_tokenizer}


def _run(rng: random.Random, folder: Path) -> str:
    base = folder / "base"
    shutil.copytree(SHIPPED / "base", base)
    files = sorted(file for file in base.rglob("*") if file.is_file())
    texts = [file for file in files if file.suffix == ".json"]
    file = rng.choice(texts if rng.random() < 0.7 else files)
    part = file.relative_to(base).parts[0]
    _spoil(rng, file)
    uri = str(base)
    check_files([FileInField(uri, "checkpoint"), FileInField(uri, "vae")])
    content_hash(uri)
    _ = BaseFacts(uri).prediction_type
    problem = ModelChecks({}).model(ModelFiles(base=uri, motion_module=str(MOTION_MODULE)))
    if problem is not None:
        raise UserError(problem)
    if part in _LOADERS:
        _LOADERS[part](uri)
    return "loaded"


def _spoil(rng: random.Random, file: Path) -> None:
    what = rng.random()
    if what < 0.6 and file.suffix == ".json":
        tree = json.loads(file.read_text())
        file.write_bytes(to_json(mutate_tree(rng, tree)))
    elif what < 0.8:
        data = file.read_bytes()
        file.write_bytes(mutate(rng, data, [data]) if file.suffix == ".safetensors" else mutate_bytes(rng, data))
    else:
        file.unlink()
        rng.choice((_nothing, os.mkfifo, _device, _loop, os.mkdir, _long, _index))(file)


def _nothing(_file: Path) -> None: ...


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _loop(file: Path) -> None:
    file.symlink_to(file.name)


def _long(file: Path) -> None:
    """Hundreds of megabytes that take no disk."""
    with file.open("wb") as opened:
        opened.truncate(256 << 20)


def _index(file: Path) -> None:
    """An index of shards in the place of the weights."""
    shards = {"a": "../../../../etc/passwd", "b": "missing.safetensors", "c": file.name}
    file.with_name(f"{file.stem}.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


FOLDERS = Subject("folders", _run, deadline_s=60, memory_mb=1024)
