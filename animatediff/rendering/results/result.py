"""What became of an item of a catalog: the form that its file, its row in the table and the gallery follow."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from animatediff.rendering.catalog.item import Item

Status = Literal["ok", "failed", "invalid"]
"""`invalid` are the items that were not tried, since their entry cannot be rendered as it is written."""


def _finite(values: Any) -> Any:
    """Return the finite numbers of a mapping.

    NaN and infinity cannot be said in JSON or on a page, and are left out.
    """
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


Numbers = Annotated[dict[str, float], BeforeValidator(_finite), PlainSerializer(_finite)]
"""Finite numbers by name."""


class Result(Item):
    """What became of an item."""

    status: Status
    error: str | None = None
    """Why there is no clip."""
    warning: str | None = None
    """What was done otherwise than written: a prompt that was cut off, or syntax in it that was read as characters."""
    attempts: int = 0
    """Times that a worker began with it."""
    seconds: Numbers = Field(default_factory=dict)
    """Seconds of the last attempt, by stage: `load` and `text` (the item's share), `compile` where the UNet is compiled
    (0 where it was already), `unet`, `vae`, `encode`, `write`."""
    files: dict[str, str] = Field(default_factory=dict)
    """Paths under the output folder: `mp4`, `gif`, `webp`, `png` (a folder), `latents`, and `poster`, a still; with
    controls, images or a picture or video to begin from `condition`, a still of these."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Hash of each file; of a folder, over its files' in their order."""
    num_bytes: dict[str, int] = Field(default_factory=dict)
    """Size of each file; of a folder, of its files together."""
    model_hashes: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights' contents by URI, those of controls and images included; a base given as a hub id stands
    for itself."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of this project and of the packages that decide pixels, the device, and where the catalog says how the
    UNet computes, that."""
    scores: dict[str, Numbers] = Field(default_factory=dict)
    """What each scorer measured of the clip, by the scorer's import path and then by name. A scorer that gave nothing
    has an empty mapping; one that is not here is still to come."""
    score_errors: dict[str, str] = Field(default_factory=dict)
    """Why a scorer gave nothing, by its import path."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_scorer(cls, values: Any) -> Any:
        """Read what earlier versions wrote: the scores of the last scorer alone, and its path and error beside them."""
        if not isinstance(values, Mapping) or "scored_by" not in values:
            return values
        newer = {name: value for name, value in values.items() if name not in ("scored_by", "score_error")}
        scorer, error = values["scored_by"], values.get("score_error")
        newer["scores"] = {scorer: values.get("scores") or {}} if scorer else {}
        newer["score_errors"] = {scorer: error} if scorer and error else {}
        return newer
