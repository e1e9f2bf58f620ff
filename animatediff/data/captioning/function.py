"""Captions by a function of the user's own.

    def caption(frames, facts):
        return "a red circle moves to the right"

`frames` are (f h w 3) uint8 RGB, `facts` a dict of what is known of the shot. It returns the caption, or
`{"caption": ..., "tags": [...]}`, or None for none. A function with the attribute `batch = True` is given lists of
both, of up to `batch_size` shots, and returns a list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from animatediff.data.captioning.batches import answer_in_batches
from animatediff.data.captioning.captions import Answer, CaptionRequest
from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import UserError
from animatediff.plugins import load_function


class FunctionModel:
    """Asks the function that `captions.function` names."""

    def __init__(self, config: CaptionConfig, device: str) -> None:
        """Load the function; it chooses a device by itself.

        Raises:
            UserError: there is none.
        """
        self._name = config.function or ""
        self._function = load_function(self._name, "captions.function")
        self._is_batch = bool(getattr(self._function, "batch", False))
        self._batch_size = config.batch_size if self._is_batch else 1

    def answers(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        """Return what the function returns, in order; what it raises is the reason that a shot has no caption.

        Raises:
            UserError: it returned something else than captions.
        """
        return answer_in_batches(requests, self._batch_size, self._ask, f"captions.function {self._name}")

    def _ask(self, batch: list[CaptionRequest]) -> list[Answer]:
        returned = self._returned(batch)
        return [self._answer(request.shot_id, value) for request, value in zip(batch, returned, strict=True)]

    def _returned(self, batch: list[CaptionRequest]) -> Sequence[Any]:
        if not self._is_batch:
            return [self._function(batch[0].frames, batch[0].facts)]
        returned = self._function([request.frames for request in batch], [request.facts for request in batch])
        if not isinstance(returned, Sequence) or isinstance(returned, str) or len(returned) != len(batch):
            raise self._error(f"a list of {len(batch)} is needed, for as many shots", returned)
        return returned

    def _answer(self, shot_id: str, value: Any) -> Answer:
        text, tags = (value.get("caption"), value.get("tags", ())) if isinstance(value, Mapping) else (value, ())
        if not isinstance(text, str | None):
            raise self._error("a caption is a text, None, or {'caption': ..., 'tags': [...]}", value)
        if isinstance(tags, str) or not isinstance(tags, Sequence) or not all(isinstance(tag, str) for tag in tags):
            raise self._error("tags are a list of texts", tags)
        return Answer(shot_id, text or "", self._name, tags=tuple(tags))

    def _error(self, needed: str, value: Any) -> UserError:
        return UserError(f"captions.function {self._name} returned {value!r:.100}: {needed}")
