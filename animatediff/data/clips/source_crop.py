"""Of which picture a clip shows which part: SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2)."""

from typing import NamedTuple

import numpy as np

from animatediff.data.clips.plan import ClipPlan
from animatediff.data.clips.resize import largest_box


class SourceCrop(NamedTuple):
    """What a clip was cropped from, in whole pixels, by the names of the shards' columns.

    SDXL was told of its training pictures how large they had been, and where they were cropped after they had been
    resized, so that neither small pictures' blur nor cut-off heads are learned as the look of pictures.
    """

    original_height: int
    """Of the source's picture as it is displayed."""
    original_width: int
    """Likewise."""
    crop_top: int
    """Rows of the resized picture above what the clip shows."""
    crop_left: int
    """Columns of the resized picture to the left of it."""

    @classmethod
    def of(cls, plan: ClipPlan, *, source: tuple[int, int]) -> "SourceCrop":
        """Return what a planned clip is cropped from.

        The frames of a camera move are cropped each elsewhere, and the UNet is told of one crop a clip: it is the mean
        of theirs, which is the same for a move and for its reverse. A mirrored clip is a crop of the mirrored picture,
        as in diffusers' train_text_to_image_sdxl.py.

        Args:
            plan: the clip.
            source: (height, width) of the video as it is displayed, in pixels.
        """
        height, width = source
        boxes = plan.crop_boxes
        if boxes is None:
            boxes = np.array([largest_box(height, width, (plan.height, plan.width))])
        x, y, w, h = boxes.T
        before = width - x - w if plan.flip else x
        # A box of the source becomes the clip's size, and what lies before it grows or shrinks with it.
        top, left = float((y * plan.height / h).mean()), float((before * plan.width / w).mean())
        return cls(height, width, round(top), round(left))
