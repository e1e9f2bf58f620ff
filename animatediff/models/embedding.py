"""A learned word (textual inversion): its vectors, by text encoder."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from animatediff.errors import UserError


@dataclass(frozen=True, eq=False)
class Embedding:
    """A learned word.

    Raises:
        UserError: the token is blank.
    """

    token: str
    """What stands for it in prompts; upper and lower case are one."""
    vectors: Mapping[str, Tensor]
    """By part (`text_encoder`, `text_encoder_2`): (n d) float32, n tokens in the prompt's place of one."""

    def __post_init__(self) -> None:
        if not self.token.strip():
            raise UserError("an embedding's token is blank: give it a word that can stand in a prompt")
