"""Tags by a WD tagger: `model.onnx`, which looks at a square picture, and `selected_tags.csv`, its outputs' names."""

import csv
import importlib
import io
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image

from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import UserError, any_error_as_user_error, one_line

_log = logging.getLogger(__name__)

_MODEL_FILE, _TAGS_FILE = "model.onnx", "selected_tags.csv"
_GENERAL, _CHARACTER = 0, 4
"""Categories of Danbooru's tags that tell what is seen; 9 is a picture's rating."""
_MOST_FRAMES = 4
"""Of a shot that are looked at: what is to be seen for a while is in them."""
_NUM_PEOPLE = re.compile(r"\d\+?(?:girl|boy|other)s?|solo|no humans")
_TWO_LETTERS = re.compile(r"[^\W_]{2}")
_WHITE = 255


class _Tag(NamedTuple):
    output: int
    """Its number among the model's outputs."""
    name: str
    is_character: bool


class WDTagger:
    """Reads tags off frames, as `captions.tags` says."""

    def __init__(self, config: CaptionConfig, device: str) -> None:
        """Load the model.

        Args:
            config: names the tagger.
            device: `cpu`, or `cuda` for onnxruntime-gpu.

        Raises:
            UserError: a file is missing or is no WD tagger's, or onnxruntime is not installed.
        """
        self._settings, self.name = config.tags, str(config.tags.folder)
        excluded = {_readable(name.strip()) for name in config.tags.exclude}
        model, tags = (_find(self.name, file) for file in (_MODEL_FILE, _TAGS_FILE))
        with any_error_as_user_error(f"captions.tags.folder {self.name}: {_TAGS_FILE}"):
            names = _read_tags(tags.read_bytes())
        self._num_outputs = len(names)
        self._tags = [tag for tag in names if tag is not None and tag.name not in excluded]
        with any_error_as_user_error(f"captions.tags.folder {self.name}: {_MODEL_FILE}"):
            self._session = _session(model, device)
            (inputs,) = self._session.get_inputs()
        self._input, shape = inputs.name, inputs.shape
        if len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2]:
            raise UserError(
                f"captions.tags.folder {self.name}: {_MODEL_FILE} wants pictures of {shape}, and WD taggers want "
                "[n, 448, 448, 3]: name a folder of one"
            )
        self._side, self._is_single = shape[1], shape[0] == 1

    def tags(self, frames: np.ndarray) -> tuple[str, ...]:
        """Return the tags of a shot: how many are seen, who, and what else, each the most probable first.

        Args:
            frames: (f h w 3) uint8 RGB.

        Raises:
            UserError: the model gives no probabilities of its tags.
        """
        number = min(_MOST_FRAMES, len(frames))
        chosen = frames[((np.arange(number) + 0.5) * len(frames) / number).astype(int)]
        probabilities = self._probabilities(np.stack([square_bgr(frame, self._side) for frame in chosen])).mean(0)
        settings = self._settings
        found = sorted(
            (tag for tag in self._tags if probabilities[tag.output] >= self._threshold(tag)),
            key=lambda tag: (_rank(tag), -probabilities[tag.output], tag.output),
        )
        return tuple(without_overlaps(tag.name for tag in found)[: settings.most])

    def _threshold(self, tag: _Tag) -> float:
        return self._settings.character_threshold if tag.is_character else self._settings.threshold

    def _probabilities(self, pictures: np.ndarray) -> np.ndarray:
        batches = np.split(pictures, len(pictures)) if self._is_single else [pictures]
        with any_error_as_user_error(f"captions.tags.folder {self.name}: {_MODEL_FILE}"):
            outputs = np.concatenate([self._session.run(None, {self._input: batch})[0] for batch in batches])
        is_probable = outputs.shape == (len(pictures), self._num_outputs) and ((outputs >= 0) & (outputs <= 1)).all()
        if not is_probable:
            raise UserError(
                f"captions.tags.folder {self.name}: {_MODEL_FILE} gives no probabilities of the {self._num_outputs} "
                f"tags of {_TAGS_FILE} (shape {outputs.shape}): copy both from one model"
            )
        return outputs


def square_bgr(frame: np.ndarray, side: int) -> np.ndarray:
    """Return a picture as WD taggers know it: centred on a white square, (side side 3) float32 BGR, 0 to 255.

    Args:
        frame: (h w 3) uint8 RGB.
        side: pixels of the result. A larger picture is averaged by area, as OpenCV's INTER_AREA does.
    """
    h, w = frame.shape[:2]
    longest = max(h, w)
    square = np.full((longest, longest, 3), _WHITE, np.uint8)
    top, left = (longest - h) // 2, (longest - w) // 2
    square[top : top + h, left : left + w] = frame
    if longest > side:
        weights = _area_weights(longest, side)
        resized = np.einsum("yh,hwc,xw->yxc", weights, square.astype(np.float32), weights, optimize=True)
    else:
        resized = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS), np.float32)
    return np.ascontiguousarray(np.rint(resized)[..., ::-1], np.float32)


def _area_weights(length: int, side: int) -> np.ndarray:
    """Return the share of each of `length` pixels in each of `side` larger ones: (side length), rows sum to 1."""
    edges = np.linspace(0, length, side + 1)
    pixels = np.arange(length)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (inside.clip(0) * side / length).astype(np.float32)


def without_overlaps(names: Iterable[str]) -> list[str]:
    """Return the tags that no longer one says as well, as `long hair` is said by `very long hair`."""
    padded = [f" {name} " for name in names]
    return [name.strip() for name in padded if not any(name in other for other in padded if other != name)]


def _rank(tag: _Tag) -> int:
    """How many are seen comes first, then who: both identify a shot, and prompts begin with them."""
    return 0 if _NUM_PEOPLE.fullmatch(tag.name) else 1 if tag.is_character else 2


def _read_tags(content: bytes) -> list[_Tag | None]:
    """Return the tag of each output; None for what does not tell what is seen.

    Raises:
        ValueError: it is no table of tags.
    """
    tags: list[_Tag | None] = []
    for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig"))):
        if not row.get("name") or not (row.get("category") or "").isdecimal():
            raise ValueError(f"row {len(tags) + 1} has no name or no number of a category")
        category = int(row["category"])
        is_seen = category in (_GENERAL, _CHARACTER)
        tags.append(_Tag(len(tags), _readable(row["name"]), category == _CHARACTER) if is_seen else None)
    if not tags:
        raise ValueError("there are no tags in it")
    return tags


def _readable(name: str) -> str:
    """Return a tag with spaces, but a face of signs (`o_o`, `>_<`) as it is."""
    return name.replace("_", " ") if _TWO_LETTERS.search(name) else name


def _find(folder: str, file: str) -> Path:
    if Path(folder).expanduser().is_dir():
        path = Path(folder).expanduser() / file
        if not path.is_file():
            raise UserError(
                f"captions.tags.folder {folder} has no {file}: a WD tagger has {_MODEL_FILE} and {_TAGS_FILE}"
            )
        return path
    try:
        return Path(hf_hub_download(folder, file))
    except Exception as error:  # of the hub's client, of many kinds
        raise UserError(
            f"captions.tags.folder {folder}: there is no such folder, and {file} of a model of this name cannot be had "
            f"from the hub: {one_line(error)}"
        ) from error


def _session(model: Path, device: str) -> Any:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError("captions.tags needs onnxruntime, which is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    # It would take all cores of the machine, and Ray says by this variable how many are ours.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    providers = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        else:
            _log.warning("tags are read on the CPU: this onnxruntime knows no GPU, onnxruntime-gpu does")
    return onnxruntime.InferenceSession(str(model), options, providers=providers)
