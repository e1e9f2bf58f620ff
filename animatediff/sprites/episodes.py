"""Episodes of the sprite world: long videos without captions, as a folder of anime has them, and who can caption them.

`python -m animatediff.sprites.episodes --output FOLDER` writes three.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import numpy as np
from PIL import Image, ImageDraw

from animatediff.sprites.command import run
from animatediff.sprites.readings.clips import measure_readings, seen_motion
from animatediff.sprites.readings.pictures import read
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import Scene, caption, sample_scenes

logger = logging.getLogger(__name__)

SIDE = 128
FPS = 24
_SHOT_FRAMES = 96
"""Four seconds: after the margins of a dissolve on both sides more than the two that a shot needs."""
_NUM_OPENING, _CARD_FRAMES, _MIXED_FRAMES = 2, 48, 12
_READ_SIDE = 64
_CRF = 20

T = TypeVar("T")


@dataclass(frozen=True)
class EpisodeShot:
    """A shot as it was put into an episode."""

    kind: Literal["card", "opening", "scene"]
    first: int
    """Number of its first frame; of a shot that is dissolved into, the first that shows something of it."""
    end: int
    """One past its last frame; of a shot that is dissolved out of, the last that shows something of it."""
    scene: Scene | None
    """What it shows; None for a title."""

    @property
    def caption(self) -> str:
        """What it shows, in words; empty for a title."""
        return caption(self.scene) if self.scene else ""


def main(output: Path, num_episodes: int = 3, num_scenes: int = 10, seed: int = 0) -> None:
    """Write episodes that share their opening.

    Args:
        output: folder for `episode-01.mkv` and so on; what is there already stays.
        num_episodes: how many.
        num_scenes: shots of each, beside a title and the opening.
        seed: another one gives other episodes.
    """
    for path in write_episodes(output, num_episodes=num_episodes, num_scenes=num_scenes, seed=seed):
        logger.info("%s", path)


def write_episodes(folder: Path, *, num_episodes: int = 3, num_scenes: int = 10, seed: int = 0) -> list[Path]:
    """Write `folder/episode-01.mkv` and so on; files that exist are left as they are.

    Args:
        folder: made if need be.
        num_episodes: how many.
        num_scenes: shots of each, beside a title and the opening.
        seed: another one gives other episodes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"episode-{number:02d}.mkv" for number in range(1, num_episodes + 1)]
    for index, path in enumerate(paths):
        if not path.exists():
            draft = path.with_suffix(".draft")
            _write_mkv(draft, build_episode(index, num_scenes=num_scenes, seed=seed)[0])
            draft.rename(path)
    return paths


def build_episode(index: int, *, num_scenes: int = 10, seed: int = 0) -> tuple[np.ndarray, list[EpisodeShot]]:
    """Return an episode's frames, (f 128 128 3) uint8 at 24 a second, and its shots.

    It begins with a title of its own and the opening, which is the same in every episode. Between its scenes are
    cuts, and every third time a dissolve, if the background changes: a shape alone that dissolves is seen too little.

    Args:
        index: of the episode, from 0.
        num_scenes: shots beside the title and the opening.
        seed: of the world.
    """
    opening = sample_scenes(_NUM_OPENING, seed + 1)
    own = sample_scenes(num_scenes, seed + 100 + index)
    shots = [EpisodeShot("card", 0, _CARD_FRAMES, None)]
    pieces = [_card(f"EPISODE {index + 1}")]
    total = _CARD_FRAMES
    for number, scene in enumerate([*opening, *own]):
        frames = render(scene, num_frames=_SHOT_FRAMES, height=SIDE, width=SIDE)
        changes = shots[-1].scene is not None and scene.background != shots[-1].scene.background
        is_dissolve = number > _NUM_OPENING and number % 3 == 0 and changes
        if is_dissolve:
            share = ((np.arange(_MIXED_FRAMES) + 1) / (_MIXED_FRAMES + 1))[:, None, None, None]
            mixed = pieces[-1][-_MIXED_FRAMES:] * (1 - share) + frames[:_MIXED_FRAMES] * share
            pieces[-1] = pieces[-1][:-_MIXED_FRAMES]
            frames = np.concatenate([mixed.round().astype(np.uint8), frames[_MIXED_FRAMES:]])
            total -= _MIXED_FRAMES
        shots.append(EpisodeShot("opening" if number < _NUM_OPENING else "scene", total, total + len(frames), scene))
        pieces.append(frames)
        total += len(frames)
    return np.concatenate(pieces), shots


def describe(frames: np.ndarray, facts: dict[str, Any]) -> str | None:
    """Return the caption of a shot of the sprite world, read off its frames; None of what shows no single subject.

    Args:
        frames: (f h w 3) uint8 RGB, best 16 and more: a star turns by less than half its symmetry in between.
        facts: what is known of the shot; nothing of it is needed.
    """
    pictures = [np.asarray(Image.fromarray(frame).resize((_READ_SIDE, _READ_SIDE))) for frame in frames]
    readings = [read(picture) for picture in pictures]
    shape, colour = _most(reading.shape for reading in readings), _most(reading.colour for reading in readings)
    background = _most(reading.background for reading in readings)
    motion = seen_motion(measure_readings(readings))
    if shape is None or colour is None or background is None or motion is None:
        return None
    # What grows or shrinks passes through its size half way.
    middle = readings[len(readings) // 4 : len(readings) - len(readings) // 4]
    size = _most(reading.size for reading in middle)
    scene = Scene(shape, colour, size or "small", background, motion, 0.0, 0.0, 0.0)
    return caption(scene, with_size=size is not None)


def _most(values: Iterable[T | None]) -> T | None:
    """Return the value that most frames agree on, if half of them do."""
    known: Sequence[T | None] = list(values)
    (value, number), *_ = Counter(known).most_common(1)
    return value if 2 * number >= len(known) else None


def _card(text: str) -> np.ndarray:
    picture = Image.new("RGB", (SIDE, SIDE), (18, 18, 24))
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate([text, "a story of shapes"]):
        draw.text((SIDE / 2, SIDE * (0.4 + 0.2 * row)), line, fill=(240, 240, 230), anchor="mm", font_size=14)
    return np.repeat(np.asarray(picture)[None], _CARD_FRAMES, 0)


def _write_mkv(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        options = {"crf": str(_CRF), "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), pix_fmt="yuv420p", options=options)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    run(main)
