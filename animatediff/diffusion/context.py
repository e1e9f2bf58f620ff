"""Context windows: clips longer than a motion module sees at a time."""

from typing import Self

from pydantic import Field, model_validator

from animatediff.config import Config


class Context(Config):
    """Overlapping windows of frames."""

    length: int = Field(16, ge=2)
    """Frames of a window; motion modules do best with what they were trained with, 16."""
    overlap: int = Field(4, ge=1)
    """Frames that a window shares with the next one."""

    @model_validator(mode="after")
    def _shorter_than_the_window(self) -> Self:
        if self.overlap >= self.length:
            raise ValueError(f"context.overlap {self.overlap} must be less than context.length {self.length}")
        return self
