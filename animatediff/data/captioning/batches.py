"""Captioning in batches, in this process: a shot that cannot be done costs itself, not those beside it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from animatediff.data.captioning.captions import Answer, CaptionReason, CaptionRequest
from animatediff.errors import UserError, one_line


def answer_in_batches(
    requests: Iterable[CaptionRequest], size: int, ask: Callable[[list[CaptionRequest]], list[Answer]], name: str
) -> Iterator[Answer]:
    """Yield what `ask` answers to batches of requests, in order.

    Where it raises, the batch's shots are asked for one by one; the error of one alone is the reason that it has no
    caption. A `UserError` passes through.

    Args:
        requests: read a batch at a time.
        size: most requests of a batch.
        ask: gives one answer to each request.
        name: of what answers, in messages.
    """
    iterator = iter(requests)
    while batch := list(islice(iterator, size)):
        yield from _answers(batch, ask, name)


def _answers(
    batch: list[CaptionRequest], ask: Callable[[list[CaptionRequest]], list[Answer]], name: str
) -> list[Answer]:
    began = time.monotonic()
    try:
        answers = ask(batch)
    except UserError:
        raise
    except Exception as error:
        if len(batch) == 1:
            return [
                Answer(batch[0].shot_id, "", name, reason=CaptionReason.FAILED, detail=f"{name}: {one_line(error)}")
            ]
        return [answer for request in batch for answer in _answers([request], ask, name)]
    duration_s = (time.monotonic() - began) / len(batch)
    return [replace(answer, usage=replace(answer.usage, duration_s=duration_s)) for answer in answers]
