"""Pictures to what CLIP's vision model says of them, each picture once."""

import hashlib
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

ClipOutput = Literal["embedding", "states"]
"""What an IP-Adapter reads: a field of `ClipImage`."""

# OpenAI's means and standard deviations of red, green and blue in [0, 1], with which all CLIP models were trained.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
_MAX_CACHED = 64  # pictures; ViT-H/14's states of one have 1.3 MB in float32

_NAMES: dict[ClipOutput, dict[int, str]] = {
    "embedding": {768: "ViT-L/14", 1024: "ViT-H/14", 1280: "ViT-bigG/14"},
    "states": {1024: "ViT-L/14", 1280: "ViT-H/14", 1664: "ViT-bigG/14"},
}


def clip_name(output: ClipOutput, width: int) -> str:
    """Return the output of a CLIP model in words, with the published model that gives it in this width."""
    known = _NAMES[output].get(width)
    what = "embeddings" if output == "embedding" else "states"
    return f"CLIP {what} of {width} numbers" + (f" ({known})" if known else "")


class ClipImage(NamedTuple):
    """What CLIP says of a picture."""

    embedding: Tensor
    """(p) of the whole picture, in the space that texts share."""
    states: Tensor
    """(n h) of the picture and its patches, after the last layer but one."""


class ImageEncoder:
    """A CLIP vision model. Each picture is read by itself, so that what is said of it depends on nothing else.

    Args:
        model: gives the device and the precision; it may be moved and cast until the first picture.
        name: what it is called in messages.
    """

    def __init__(self, model: CLIPVisionModelWithProjection, name: str = "the image encoder") -> None:
        self.model, self.name = model, name
        self._read: dict[bytes, ClipImage] = {}

    def width(self, output: ClipOutput) -> int:
        """Return how many numbers the embedding, or each of the states, has."""
        return self.model.config.projection_dim if output == "embedding" else self.model.config.hidden_size

    def read(self, picture: np.ndarray) -> ClipImage:
        """Return what CLIP says of a picture, on the model's device; the last 64 pictures are kept.

        Args:
            picture: (h w 3) uint8 RGB of any size; what is beside the square in the middle is not seen.
        """
        pixels = preprocess(picture, self.model.config.image_size)
        return self._kept(hashlib.sha256(pixels.numpy().tobytes()).digest(), pixels)

    def read_nothing(self) -> ClipImage:
        """Return what stands for no picture: an embedding of zeros, and the states of pixels that are all zero.

        That is what IP-Adapters were trained with, as tencent-ailab/IP-Adapter and diffusers have it. The pixels are
        zero after `preprocess`: a grey picture.
        """
        size = self.model.config.image_size
        found = self._kept(b"", torch.zeros(3, size, size))
        return found._replace(embedding=torch.zeros_like(found.embedding))

    def _kept(self, key: bytes, pixels: Tensor) -> ClipImage:
        if key not in self._read:
            while len(self._read) >= _MAX_CACHED:
                del self._read[next(iter(self._read))]
            self._read[key] = self._run(pixels)
        self._read[key] = found = self._read.pop(key)  # the last to be asked for is the last to go
        return found

    @torch.no_grad()
    def _run(self, pixels: Tensor) -> ClipImage:
        out = self.model(pixels[None].to(self.model.device, self.model.dtype), output_hidden_states=True)
        return ClipImage(out.image_embeds[0], out.hidden_states[-2][0])


def preprocess(picture: np.ndarray, size: int) -> Tensor:
    """Return a picture as CLIP was trained on it: the short side bicubic to `size`, the square in the middle.

    By Pillow: transformers' CLIPImageProcessor gives other numbers where torchvision is installed than where it is not.

    Args:
        picture: (h w 3) uint8 RGB.
        size: pixels a side of what the model takes.

    Returns:
        (3 size size) float32 of about zero mean and unit variance.
    """
    image = Image.fromarray(picture)
    short = min(image.size)
    image = image.resize(tuple(int(size * side / short) for side in image.size), Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    left, top = ((side - size) // 2 for side in image.size)
    pixels = np.asarray(image, dtype=np.float32)[top : top + size, left : left + size] / 255
    normal = (pixels - _MEAN) / _STD
    return torch.from_numpy(normal).permute(2, 0, 1).contiguous()
