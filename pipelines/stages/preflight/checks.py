"""What a node is asked: each check says what it found, and raises where something is wrong."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from animatediff import storage
from animatediff.data.captioning.endpoint import find_model
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.decoding.videos import probe
from animatediff.data.manifest import check_shards, read_manifest
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.fetching import ask_for_video
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.plugins import load_function
from animatediff.rendering.outputs import encode_mp4
from animatediff.uris import printable_uri
from animatediff.weights.base import check_part
from animatediff.weights.base_facts import BaseFacts, load_config
from pipelines.stages.preflight.devices import check_device
from pipelines.stages.preflight.needs import Needs

TOKEN = ".preflight-driver"
"""In the output folder while a preflight runs: the driver's file, which each node must see."""

# Ray makes no more objects on a disk that is fuller (`local_fs_capacity_threshold`), and what is fetched needs room.
_FULLEST, _FREE_GB = 0.95, 5.0
_MOST_VIDEO_BYTES = 64_000_000


class Check(NamedTuple):
    """One row of the table, on every node."""

    name: str
    run: Callable[[Needs], str | None]
    """Returns what it found, None where the job needs nothing of the kind."""
    remedy: str


def _read_inputs(needs: Needs) -> str | None:
    found = []
    if needs.source is not None:
        found.append(_read_source(needs.source))
    for uri in needs.dataset_uris:
        manifest = read_manifest(uri)
        check_shards(uri, manifest)
        found.append(f"{manifest.num_clips} clips in {len(manifest.shards)} shards")
    for uri in needs.files:
        if not storage.exists(uri):
            raise UserError(f"there is nothing at {printable_uri(uri)}")
    if needs.files:
        found.append(f"{len(needs.files)} files")
    return ", ".join(found) or None


def _read_source(source: SourceConfig) -> str:
    first = next(read_source(source), [])
    video = next((video for video in first if video.fault is None), None)
    if video is None:
        raise UserError(f"{printable_uri(source.uri)} names no video")
    try:
        ask_for_video(video.uri, max_bytes=_MOST_VIDEO_BYTES, trusted=source.trusted)
    except VideoError as error:
        if error.reason is not Reason.TOO_LARGE:  # which says that it is there
            raise UserError(f"{printable_uri(video.uri)}: {error.detail}") from error
    return "the source and its first video"


def _write_output(needs: Needs) -> str:
    token, own = (storage.join(needs.output_uri, name) for name in (TOKEN, f".preflight-{uuid.uuid4().hex}"))
    if not storage.exists(token):
        raise UserError(
            f"what the driver wrote to {printable_uri(needs.output_uri)} is not there: it is another folder here"
        )
    content = os.urandom(1024)
    storage.write_bytes(own, content)
    try:
        if storage.read_bytes(own) != content:
            raise UserError(f"{printable_uri(needs.output_uri)} gives back other bytes than were written")
    finally:
        storage.delete(own)
    return "written, read and deleted"


def _look_at_disk(needs: Needs) -> str:
    folders = dict.fromkeys((tempfile.gettempdir(), "/tmp"))
    usages = {folder: shutil.disk_usage(folder) for folder in folders if Path(folder).is_dir()}
    for folder, usage in usages.items():
        if usage.used / usage.total > _FULLEST or usage.free < _FREE_GB * 1e9:
            raise UserError(
                f"{folder} has {usage.free / 1e9:.1f} GB of {usage.total / 1e9:.0f} GB free; {_FREE_GB:g} GB and "
                f"{1 - _FULLEST:.0%} are needed"
            )
    return f"{min(usage.free for usage in usages.values()) / 1e9:.0f} GB free"


def _open_bases(needs: Needs) -> str | None:
    return ", ".join(dict.fromkeys(_open_base(base, needs.base_parts) for base in needs.bases)) or None


def _open_base(base: str, parts: tuple[str, ...]) -> str:
    """Return what a base is, if its parts can be opened."""
    facts = BaseFacts(base).read()
    second = ("text_encoder_2",) if "text_encoder" in parts and facts.architecture == "sdxl" else ()
    for part in (*parts, *second):
        if Path(base).is_dir():
            check_part(base, part)
        else:
            load_config(base, part)
    return facts.published_base or facts.architecture


def _decode(needs: Needs) -> str | None:
    if not needs.decoders:
        return None
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    for number, frame in enumerate(frames):  # a bar that moves: frames that repeat are not believed
        frame[:, 8 * number : 8 * number + 8] = 255
    data = encode_mp4(frames, fps=8)
    info = probe(data)
    for name in needs.decoders:
        try:
            decoded, _ = read_frames(data, info, FrameSelection(np.arange(len(frames)), 64, 64), load_decoders((name,)))
        except VideoError as error:
            raise UserError(error.detail) from error
        if decoded.shape != frames.shape or np.abs(decoded.astype(int) - frames).mean() > 16:
            raise UserError(f"{name} gives other frames than were encoded")
    return ", ".join(needs.decoders)


def _import_scorers(needs: Needs) -> str | None:
    for path in needs.scorers:
        load_function(path, "scorer")
    return ", ".join(needs.scorers) or None


def _ask_captioner(needs: Needs) -> str | None:
    captions = needs.captions
    if captions is None or captions.url is None:
        return None
    return f"{printable_uri(captions.url)} serves {find_model(captions)}"


def _try_gpus(needs: Needs) -> str:
    import ray
    import torch

    node_id = ray.get_runtime_context().get_node_id()
    offered = next(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["NodeID"] == node_id)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < offered:
        raise UserError(f"Ray offers {offered} GPUs here, and PyTorch {torch.__version__} sees {seen}")
    if not seen or needs.use_gpu is False:
        return "no GPU here: the CPU computes" if not seen else f"{seen} GPUs here, not used"
    found = [_try_gpu(torch.device("cuda", number)) for number in range(seen)]
    return f"{seen} x {found[0]}" if len(set(found)) == 1 else ", ".join(found)


def _try_gpu(device: Any) -> str:
    import torch

    try:
        return check_device(device)
    except torch.OutOfMemoryError:
        return "one whose memory another job has taken, not tried"


CHECKS = (
    Check("input", _read_inputs, "mend the URI, the mount or the node's credentials"),
    Check(
        "output",
        _write_output,
        "make output_uri storage that every node shares, with room and the right to write, or mend its credentials",
    ),
    Check("disk", _look_at_disk, "delete old Ray sessions and caches, or give the node a larger disk"),
    Check("GPU", _try_gpus, "mend the node's driver or its image's PyTorch, or take the node out"),
    Check("base", _open_bases, "mend base, or the node's way to it"),
    Check("decoders", _decode, "install it in the nodes' image, or leave it out of decode.decoders"),
    Check("captions", _ask_captioner, "start the server, or mend captions.url or the node's way to it"),
    Check("scorers", _import_scorers, "install its package in the nodes' image, or send it with --working-dir"),
)
