"""Weights files, as a catalog's checks and its workers read them."""

import io
import json
import random
import struct
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load, save

from animatediff.rendering.catalog.model_identity import token_of
from animatediff.rendering.checks.files import FileInField, check_files
from animatediff.weights import checkpoints, motion_modules, textual_inversion
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import load_config
from animatediff.weights.identify import weights_file
from animatediff.weights.identify.weights_slots import field_for
from animatediff.weights.layouts.architectures import PARTS
from animatediff.weights.lora import lora_file
from tests.fuzz.harness import Subject
from tests.fuzz.mutations import mutate_bytes, mutate_tree

SHIPPED = Path(__file__).parents[2] / "animatediff" / "sprites" / "weights"
MOTION_MODULE = SHIPPED / "motion_module.safetensors"
_ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
_OPS = b"()]}0.1234abcdeghijlopqrstuBCGHJKLMNPQRSTUVX\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x93\x94\x95"


@cache
def _modules() -> dict[str, torch.nn.Module]:
    base = str(SHIPPED / "base")
    parts = ("unet", "vae", "text_encoder")
    built = {part: build_on_meta(PARTS[part], load_config(base, part), part) for part in parts}
    return built | {"motion": motion_modules.read(str(MOTION_MODULE))}


@cache
def _seeds() -> list[tuple[str, bytes]]:
    """Roles in a catalog, and small whole files."""
    pair = {f"{_ATTENTION}.lora_down.weight": torch.ones(2, 64), f"{_ATTENTION}.lora_up.weight": torch.ones(64, 2)}
    scaled = pair | {f"{_ATTENTION}.alpha": torch.tensor(1.0)}
    vector = torch.ones(2, 768)
    vae = (SHIPPED / "base" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    text = load((SHIPPED / "base" / "text_encoder" / "model.safetensors").read_bytes())
    lightning = {"state_dict": OrderedDict(text), "epoch": 3, "optimizer": [1, (2, 3), {"a": None}]}
    metadata = {"ss_network_module": "networks.lora", "lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 2}'}
    motion = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor"
    motion_pair = {
        f"{motion}.to_q_lora.down.weight": torch.ones(2, 64),
        f"{motion}.to_q_lora.up.weight": torch.ones(64, 2),
    }
    return [
        *((role, save(scaled, metadata)) for role in ("lora", "domain_adapter")),
        ("motion_lora", save(motion_pair)),
        *(("lora", _pickled(pair, zipped)) for zipped in (True, False)),
        *((role, vae) for role in ("checkpoint", "vae")),
        *(("checkpoint", _pickled(lightning, zipped)) for zipped in (True, False)),
        ("textual_inversion", save({"emb_params": vector})),
        *(
            ("textual_inversion", _pickled({"string_to_param": {"*": vector[0]}, "name": "a"}, zipped))
            for zipped in (1, 0)
        ),
        ("motion_module", MOTION_MODULE.read_bytes()),
        ("motion_module", _pickled(load(MOTION_MODULE.read_bytes()), True)),
    ]


def _pickled(content: object, zipped: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=bool(zipped))
    return buffer.getvalue()


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Bytes anywhere; or within its format: a header's tree, a record of a zip, opcodes of a pickle."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, data, others)
    if data.startswith(b"PK"):
        return _repacked(rng, data)
    if data[8:9] == b"{":
        return _with_header(rng, data)
    return _with_opcodes(rng, data)


def _with_header(rng: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    tree = mutate_tree(rng, json.loads(data[8 : 8 + length]))
    try:
        text = json.dumps(tree).encode("utf-8", "surrogatepass")
    except RecursionError:
        text = b"[" * 5000
    return struct.pack("<Q", rng.choice((len(text), len(text), len(text), 2**40, 2))) + text + data[8 + length :]


def _with_opcodes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        place = rng.randrange(len(changed))
        changed[place:place] = rng.choice(
            (bytes([rng.choice(_OPS)]), b"q\x01h\x01", b"h\x01\x86q\x01" * 40, b"(]e" * 9)
        )
    return bytes(changed)


def _repacked(rng: random.Random, data: bytes) -> bytes:
    """The archive anew, its checksums right and a record wrong, doubled, packed, renamed or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen, what = rng.choice(old.infolist()).filename, rng.randrange(6)
        for record in old.infolist():
            content, name, method = old.read(record), record.filename, zipfile.ZIP_STORED
            if name == chosen and what == 0:
                continue
            if name == chosen and what == 1:
                name = rng.choice(("../../x", "/etc/x", "data.pkl", "a" * 5000, name.upper()))
            if name == chosen and what == 2:
                method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            if name.endswith("data.pkl") and what > 2:
                content = _with_opcodes(rng, content)
            elif name == chosen:
                content = mutate_bytes(rng, content)
            new.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return buffer.getvalue()


def _run(rng: random.Random, folder: Path) -> str:
    seeds = _seeds()
    role, data = rng.choice(seeds)
    suffix = rng.choice((".safetensors", ".ckpt", ".pt", ".bin")) if rng.random() < 0.2 else ".safetensors"
    path = folder / f"file{suffix}"
    path.write_bytes(mutate(rng, data, [other for _, other in seeds]))
    uri = str(path)
    problems = check_files([FileInField(uri, str(field_for(role)))]) if role != "motion_module" else {}
    if any("\n" in line or len(line) > 8000 for line in problems.values()):
        return f"FAULT message: {problems}"
    if role == "textual_inversion":
        token_of(uri, None)
    weights_file.identify_uri(uri)
    if role == "motion_module":
        motion_modules.read(uri)
    elif role == "textual_inversion":
        textual_inversion.read(uri)
    elif role in ("checkpoint", "vae"):
        checkpoints.load(uri, _modules())
    else:
        lora_file.read_deltas(uri, {part: module.state_dict() for part, module in _modules().items()}, family=role)
    return "read"


def warm() -> None:
    """Make what all cases share before the processes part."""
    _seeds(), _modules()


WEIGHTS = Subject("weights", _run, deadline_s=20, memory_mb=512)
