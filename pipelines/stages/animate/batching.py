"""Which items a worker renders in one batch, and what it tries when a batch fails."""

import gc
import logging
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator

import torch

from animatediff.errors import UserError
from animatediff.rendering.animator import Animator, RenderedClip
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.item import Item

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Times that an item is tried which fails with anything but an error that says what is wrong with it."""
# Clips of one batch may start from different files, but either all of them start from one or none does.
_STARTS = ("init_image", "init_video")
# What items of one batch may differ in: each has its own row of text embeddings, a rate of its own, and the
# name of its preset, whose settings do count.
_MAY_DIFFER = {"negative_prompt", "fps", "preset", *_STARTS}

ClipOrError = RenderedClip | Exception
"""An item's clip, or why there is none."""


class Batcher:
    """Batches of a size that the memory has been found to hold.

    Args:
        batch_size: clips a batch, as long as no batch was out of memory.
        check_device: called after each failure; it ends the process where no other item could succeed either.
    """

    def __init__(self, batch_size: int, check_device: Callable[[], None]) -> None:
        self._batch_size, self._check_device = batch_size, check_device
        self._sizes: dict[object, int] = {}
        """Lower sizes, by the settings with which a batch was out of memory."""

    def batches(self, items: Iterable[Item], crash_suspects: Container[str]) -> Iterator[list[Item]]:
        """Yield the items in batches whose settings agree; then the crash_suspects (see `dispatch`), each by itself."""
        alike: dict[object, list[Item]] = defaultdict(list)
        alone: list[Item] = []
        for item in items:
            (alone if item.digest in crash_suspects else alike[_shared_settings(item)]).append(item)
        for settings, group in alike.items():
            begun = 0
            while begun < len(group):  # `render` may lower the size between two batches
                size = self._batch_size_for(settings)
                yield group[begun : begun + size]
                begun += size
        yield from ([item] for item in alone)

    def render(self, animator: Animator, batch: list[Item]) -> Iterator[tuple[Item, ClipOrError, int]]:
        """Yield each item of a batch with its clip or error, and the attempts that this took.

        A batch out of memory is halved, and so are all later ones of its settings. One that fails otherwise is rendered
        item by item, as one item's fault must not be its neighbours'; an item that fails alone is tried
        `MAX_ATTEMPTS` times, unless its error says what is wrong with it.
        """
        clips_or_error = self._try(animator, batch)
        if isinstance(clips_or_error, list):
            yield from ((item, clip, 1) for item, clip in zip(batch, clips_or_error, strict=True))
            return
        if smaller_batches := self._smaller_batches(batch, clips_or_error):
            for smaller_batch in smaller_batches:
                yield from self.render(animator, smaller_batch)
            return
        attempts = 1
        while not isinstance(clips_or_error, (list, UserError)) and attempts < MAX_ATTEMPTS:
            clips_or_error, attempts = self._try(animator, batch), attempts + 1
        yield batch[0], clips_or_error[0] if isinstance(clips_or_error, list) else clips_or_error, attempts

    def _batch_size_for(self, settings: object) -> int:
        return self._sizes.get(settings, self._batch_size)

    def _smaller_batches(self, batch: list[Item], failure: Exception) -> list[list[Item]]:
        """Return what to try in place of a batch that failed; nothing where it cannot be parted."""
        settings = _shared_settings(batch[0])
        size = self._batch_size_for(settings)
        if is_out_of_memory(failure) and size > 1:
            self._sizes[settings] = max(1, min(size, len(batch)) // 2)
            logger.warning("out of memory with %d clips: going on with %d", size, self._sizes[settings])
            middle = (len(batch) + 1) // 2
            return [half for half in (batch[:middle], batch[middle:]) if half]
        return [[item] for item in batch] if len(batch) > 1 else []

    def _try(self, animator: Animator, batch: list[Item]) -> list[RenderedClip | UserError] | Exception:
        try:
            return animator.render_batch(batch, max_batch=self._batch_size_for(_shared_settings(batch[0])))
        except Exception as error:
            if not isinstance(error, UserError):
                logger.exception("items %s", [item.digest for item in batch])
            failure = error.with_traceback(None)  # whose frames hold the tensors
        gc.collect()
        self._check_device()
        return failure


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short, of a GPU or of the machine."""
    says_so = "not enough memory" in str(error) or "can't allocate memory" in str(error)  # PyTorch on a CPU
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or says_so


def _shared_settings(item: Item) -> tuple[object, ...]:
    """Return the settings that an item must share with all of its batch: all but `_MAY_DIFFER`."""
    shared = (getattr(item, name) for name in RenderSettings.model_fields if name not in _MAY_DIFFER)
    return *shared, *(getattr(item, name) is None for name in _STARTS)
