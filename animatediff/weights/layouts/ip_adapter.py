"""What an IP-Adapter file is: told from the names in it, `image_proj.*` and `ip_adapter.<layer>.*`.

A `.bin` has them as a dict of two dicts, a `.safetensors` file flat; opened, both have the same names.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

Variant = Literal["base", "plus", "full-face", "FaceID", "FaceID plus", "InstantID"]
PROJECTION = "image_proj."
LAYER = re.compile(r"ip_adapter\.(\d{1,5})\.to_([kv])_ip\.weight")
"""Number of a cross-attention among all attentions of the UNet, and whether it makes keys or values."""

_FACE_WIDTH = 512  # of the vectors of insightface's recognition models; no CLIP is that narrow

_Shapes = Mapping[str, tuple[int, ...]]


class ProjectionFacts(NamedTuple):
    """What the projection of an IP-Adapter makes of what."""

    variant: Variant
    """`plus` is plus-face, too, which differs in its numbers alone."""
    clip_width: int
    """Numbers of what it reads of a picture: CLIP's embedding, or each of its states."""
    token_width: int
    num_tokens: int | None
    """Of a picture; None is one of each of CLIP's states."""

    @property
    def is_of_face(self) -> bool:
        """Whether it reads the vectors of a face recognition model, which only its own programs have."""
        return self.variant in ("FaceID", "FaceID plus", "InstantID")

    @property
    def reads_states(self) -> bool:
        """Whether it reads CLIP's states, in place of the one embedding."""
        return self.variant in ("plus", "full-face")


def find_projection(shapes: _Shapes) -> ProjectionFacts | None:
    """Return what the projection in a file is; None where there is none of a known kind."""
    found = {name.removeprefix(PROJECTION): shape for name, shape in shapes.items() if name.startswith(PROJECTION)}
    try:
        return _projection(found, has_lora=any("_lora." in name for name in shapes))
    except (IndexError, ValueError, ZeroDivisionError):  # shapes that no projection has
        return None


def _projection(shapes: _Shapes, *, has_lora: bool) -> ProjectionFacts | None:
    if "perceiver_resampler.proj_in.weight" in shapes:
        return _of_face("FaceID plus", shapes)
    if "proj.weight" in shapes:
        token_width = shapes["norm.weight"][0] if "norm.weight" in shapes else 0
        rows, clip_width = shapes["proj.weight"]
        return ProjectionFacts("FaceID" if has_lora else "base", clip_width, token_width, rows // token_width)
    if "proj.3.weight" in shapes and "proj.0.weight" in shapes:
        return ProjectionFacts("full-face", shapes["proj.0.weight"][1], shapes["proj.3.weight"][0], None)
    if "proj.0.weight" in shapes and "norm.weight" in shapes:
        return _of_face("FaceID", shapes)
    if {"latents", "proj_in.weight", "proj_out.weight"} <= shapes.keys():
        _, clip_width = shapes["proj_in.weight"]
        _, num_tokens, _ = shapes["latents"]
        variant: Variant = "InstantID" if clip_width == _FACE_WIDTH else "plus"
        return ProjectionFacts(variant, clip_width, shapes["proj_out.weight"][0], num_tokens)
    return None


def _of_face(variant: Variant, shapes: _Shapes) -> ProjectionFacts:
    token_width = shapes.get("norm.weight", (0,))[0]
    rows = shapes.get("proj.2.weight", (0,))[0]
    return ProjectionFacts(variant, shapes.get("proj.0.weight", (0, 0))[1], token_width, rows // token_width)
