"""Items, an assignment and an animator that computes nothing, for the tests of the animate job's workers."""

from collections import Counter

import numpy as np
import torch

from animatediff.errors import UserError
from animatediff.rendering.animator import RenderedClip
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item
from pipelines.stages.animate.dispatch import Assignment, Slice


class StubAnimator:
    """Gives grey clips; refuses batches beyond its memory, and prompts by what they say."""

    def __init__(self, memory=100):
        self.memory, self.calls, self.tries = memory, [], Counter()

    def render_batch(self, items, *, max_batch):
        self.calls.append((len(items), max_batch))
        self.tries.update(item.prompt for item in items)
        if min(len(items), max_batch) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for item in items:
            if item.prompt == "hungry":
                raise torch.OutOfMemoryError("CUDA out of memory")
            if item.prompt == "bad" or (item.prompt == "moody" and self.tries["moody"] < 2):
                raise ValueError("no such thing")
            if item.prompt == "refused":
                raise UserError("it says why")
        return [grey_clip() for _ in items]


def grey_clip():
    return RenderedClip(np.zeros((2, 16, 16, 3), np.uint8), torch.zeros(2, 4, 2, 2), None, {"unet": 1.0})


def items_of(*prompts, **changes):
    return [
        Item(digest=f"{number:064x}", entry="e", model="m", prompt=prompt, seed=number, **changes)
        for number, prompt in enumerate(prompts)
    ]


def assignment_of(items, crash_suspects=(), given_up=None):
    model = ModelFiles(base="b", motion_module="m")
    return Assignment(Slice("m", 0, tuple(items)), model, {"b": "1"}, None, frozenset(crash_suspects), given_up or {})
