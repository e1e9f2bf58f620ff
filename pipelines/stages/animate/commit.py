"""What a worker writes of an item: its clip's files first, then its own JSON file, which commits it.

Whoever reads `items/{digest}.json` finds the files that it names, and what was killed in between is rendered again
to the same paths. See `dispatch` for why each item is committed once.
"""

import hashlib
import json
import logging
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch

from animatediff import storage
from animatediff.rendering.animator import RenderedClip
from animatediff.rendering.catalog.condition_files import network_files
from animatediff.rendering.catalog.entries import ComputeSettings, RenderSettings
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.conditions.condition_sheet import encode_condition_sheet
from animatediff.rendering.formats import Format
from animatediff.rendering.outputs import EncodedFile, encode_clip
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import error_line, make_result, read_item, write_item
from animatediff.rendering.results.result import Result
from animatediff.uris import printable_uri
from pipelines.stages.animate.batching import ClipOrError, is_out_of_memory
from pipelines.stages.animate.dispatch import MAX_DEATHS, Assignment

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = "out of memory with a single clip in the batch: use smaller or fewer frames, or a larger device"


class Committer:
    """Writes items to the output folder and its ledger, `items/`.

    Args:
        output_uri: the folder.
        formats: files that are written of each clip.
        crf: quality of MP4; less is better.
        device: "cuda" or "cpu", for the record of what rendered a clip.
    """

    def __init__(self, output_uri: str, formats: Sequence[Format], crf: int, device: str) -> None:
        self._output_uri, self._formats, self._crf, self._device = output_uri, tuple(formats), crf, device

    def existing_result(self, assignment: Assignment, item: Item) -> Result | None:
        """Return the result of an item that needs no rendering: it is committed, or workers died of it too often."""
        if done := read_item(self._output_uri, item.digest):
            return done
        if reason := assignment.given_up.get(item.digest):
            return self.commit_failure(assignment, item, reason, attempts=MAX_DEATHS)
        return None

    def commit(
        self, assignment: Assignment, item: Item, clip_or_error: ClipOrError, *, attempts: int, load_s: float
    ) -> Result:
        """Write an item's files, and then its result.

        Args:
            assignment: which the item is of.
            item: what was rendered.
            clip_or_error: its clip, or why there is none.
            attempts: times that this process rendered it; a death of an earlier one counts as another.
            load_s: the item's share of the seconds that loading its model took.

        Raises:
            UserError: the storage cannot be written to; nothing is committed then.
        """
        attempts += 1 if item.digest in assignment.crash_suspects else 0
        if isinstance(clip_or_error, Exception):
            error = _OUT_OF_MEMORY if is_out_of_memory(clip_or_error) else error_line(clip_or_error)
            return self.commit_failure(assignment, item, error, attempts=attempts)
        clip = clip_or_error
        seconds = {"load": load_s, **clip.seconds, "encode": 0.0, "write": 0.0}
        files, hashes, sizes = self._write_clip_files(assignment, item, clip, seconds)
        return self._commit_result(
            assignment,
            item,
            status="ok",
            warning=clip.warning,
            attempts=attempts,
            seconds={stage: round(taken, 4) for stage, taken in seconds.items()},
            files=files,
            sha256=hashes,
            num_bytes=sizes,
        )

    def commit_failure(self, assignment: Assignment, item: Item, error: str, *, attempts: int) -> Result:
        """Write that an item has no clip, and why."""
        return self._commit_result(assignment, item, status="failed", error=error, attempts=attempts)

    def _commit_result(self, assignment: Assignment, item: Item, **outcome: Any) -> Result:
        result = make_result(
            item, model_hashes=_hashes(assignment, item), versions=self._versions(assignment), **outcome
        )
        write_item(self._output_uri, result)
        return result

    def _write_clip_files(
        self, assignment: Assignment, item: Item, clip: RenderedClip, seconds: dict[str, float]
    ) -> tuple[dict[str, str], dict[str, str], dict[str, int]]:
        """Write a clip's files, and add to `seconds` what encoding and writing took.

        Returns:
            Their paths, SHA-256 and bytes, by format.
        """
        stem = f"clips/{item.digest[:16]}"
        paths: dict[str, str] = {}
        hashes: dict[str, list[str]] = defaultdict(list)
        sizes: dict[str, int] = defaultdict(int)
        for file in _timed(self._encoded(assignment, item, clip), seconds):
            began = time.monotonic()
            storage.write_bytes(storage.join(self._output_uri, stem + file.suffix), file.data)
            # A PNG is one file a frame: its folder is what is named.
            paths[file.format] = stem + file.suffix.partition("/")[0] if file.format == "png" else stem + file.suffix
            hashes[file.format].append(hashlib.sha256(file.data).hexdigest())
            sizes[file.format] += len(file.data)
            seconds["write"] += time.monotonic() - began
        # The poster is encoded first, but the table takes the first path of a result as its `uri`: that is the clip's.
        paths["poster"] = paths.pop("poster")
        return paths, {kind: clip_files.combined_hash(found) for kind, found in hashes.items()}, dict(sizes)

    def _encoded(self, assignment: Assignment, item: Item, clip: RenderedClip) -> Iterator[EncodedFile]:
        metadata = _metadata(item, _hashes(assignment, item), self._versions(assignment))
        yield from encode_clip(self._formats, clip.frames, clip.latents, fps=item.fps, crf=self._crf, metadata=metadata)
        if clip.conditions:
            yield EncodedFile("condition", ".condition.webp", encode_condition_sheet(clip.conditions))

    def _versions(self, assignment: Assignment) -> dict[str, str]:
        model = assignment.model
        said = {name: str(value) for name in ComputeSettings.model_fields if (value := getattr(model, name))}
        return self._installed | said

    @cached_property
    def _installed(self) -> dict[str, str]:
        packages = {"animatediff": "animatediff-ray", "torch": "torch", "diffusers": "diffusers"}
        name = torch.cuda.get_device_name() if self._device == "cuda" else platform.machine()
        return {package: version(project) for package, project in packages.items()} | {"device": name}


def _timed(files: Iterator[EncodedFile], seconds: dict[str, float]) -> Iterator[EncodedFile]:
    """Yield the files, and add what encoding each takes to `seconds["encode"]`."""
    began = time.monotonic()
    for file in files:
        seconds["encode"] += time.monotonic() - began
        yield file
        began = time.monotonic()


def _hashes(assignment: Assignment, item: Item) -> dict[str, str]:
    """Return the hashes of an item's weights: its model's, and those of the networks that its settings name."""
    networks = map(printable_uri, network_files(dict(item)))
    return {**assignment.file_hashes, **{uri: assignment.network_hashes[uri] for uri in networks}}


def _metadata(item: Item, hashes: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, str]:
    """Return what a clip's files say of themselves."""
    return {
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "seed": str(item.seed),
        "model": item.entry,  # files of all versions have the entry's name here; `item.model` is the model's digest
        "settings": item.model_dump_json(include=RenderSettings.model_fields.keys() - {"negative_prompt"}),
        "digest": item.digest,
        "model_hashes": json.dumps(dict(hashes)),
        "versions": json.dumps(dict(versions)),
    }
