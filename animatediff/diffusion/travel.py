"""How a prompt changes over a clip; `prompt_travel` computes it. Configs are read before torch is imported."""

from typing import Literal

from pydantic import Field

from animatediff.config import Config


class Travel(Config):
    """How a clip goes from the prompt of one key frame to the next one's."""

    interpolation: Literal["linear", "slerp"] = "linear"
    """Along the straight line, or around the origin at a constant angle (Shoemake 1985), the embeddings being one long
    vector each; nearly parallel ones go along the line in either case."""
    dwell: float = Field(0.0, ge=0, le=1)
    """Share of the frames to the next key that a prompt is held for before it begins to change; at 1 it changes at
    once."""
