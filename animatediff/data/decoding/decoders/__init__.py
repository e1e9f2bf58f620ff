"""Decoders: one file a library, behind one small interface.

A file of this folder is a decoder by being there: a config names it by the file's name, and its class is the file's
`DECODER`. It is imported only where a config names it, as its library may be heavy, or not installed.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.videos import VideoInfo
from animatediff.errors import UserError

_PACKAGES = {"torchcodec_cuda": "torchcodec"}
"""Packages of decoders with other names than theirs."""


class Decoder(Protocol):
    """One way to get frames. It runs in a child process: it may crash or hang, but must not return wrong frames."""

    name: str
    """Stored with every clip."""

    def supports(self, info: VideoInfo) -> bool:
        """Whether it is known to return the right frames of such a video."""

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """Return the frames at `indices`, upright.

        Args:
            data: the video file.
            info: what `probe` says of it.
            indices: (k,) ascending frame numbers in presentation order.
            height: pixels of the result, upright; never more than `info.height`.
            width: pixels, likewise.

        Returns:
            k arrays of (h w 3) uint8 RGB. An iterator spares the memory of all frames at once.

        Raises:
            Exception: of any kind, where the frames cannot be had. The next decoder is then asked.
        """


@runtime_checkable
class CroppingDecoder(Decoder, Protocol):
    """A decoder that can give a part of each frame at the very size of the clip, which spares all other pixels."""

    def crops(self, info: VideoInfo, box: CropBox, *, height: int, width: int) -> bool:
        """Whether it gives such a part exactly, as `cropped_frames` takes it; otherwise it is asked for `frames`."""

    def cropped_frames(
        self, video: VideoFile, indices: np.ndarray, *, box: CropBox, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """Return a part of the frames at `indices`, upright, resized with antialiasing; else as `Decoder.frames`.

        Args:
            video: the file, and what `probe` says of it.
            indices: (k,) ascending frame numbers in presentation order.
            box: the part, in pixels as displayed.
            height: pixels of the result, upright.
            width: pixels, likewise.
        """


def names() -> tuple[str, ...]:
    """Return the decoders' names, of all files of this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg))


def load_decoders(names: Sequence[str]) -> list[Decoder]:
    """Return the decoders of these names, in order.

    Args:
        names: of `names()`, or import paths `package.module:ClassName`.

    Raises:
        UserError: a decoder is unknown, or its library is not installed.
    """
    return [_load(name) for name in names]


def _load(name: str) -> Decoder:
    module, _, attribute = (name if ":" in name else f"{__name__}.{name}:DECODER").partition(":")
    try:
        decoder: Decoder = getattr(importlib.import_module(module), attribute)()
        return decoder
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(name, name)
        if error.name and error.name.lower() == package:
            raise UserError(f"decode.decoders names {name}, which is not installed: pip install {package}") from error
        raise UserError(f"decode.decoders names {name}, which cannot be imported: {error}") from error
    except Exception as error:  # libraries that do not load raise what they like
        text = " ".join(str(error).split())[:300]
        raise UserError(f"decode.decoders names {name}, which cannot be used: {text}") from error
