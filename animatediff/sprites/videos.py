"""The sprite world as a user's collection: H.264 files and a WebVid-style CSV, with broken files on request.

`python -m animatediff.sprites.videos --output FOLDER --num-videos 1000` writes one.
"""

import csv
import hashlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Literal

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.outputs import encode_mp4
from animatediff.sprites.command import run
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import Scene, caption, sample_scenes

logger = logging.getLogger(__name__)

# 3 s. A training clip of 16 frames at stride 4 spans 61 frames: 72 hold it, with 12 places to begin.
NUM_FRAMES = 72
FPS = 24.0
COLUMNS = ("videoid", "contentUrl", "duration", "page_dir", "name")

Breakage = Literal["empty", "truncated", "text"]

_VIDEOS_PER_PAGE = 50
# Part of every video id: raise it when the renderer draws something else for the same scene.
_WORLD_VERSION = 3
_TEXT = b"<html><body><h1>404 Not Found</h1></body></html>\n"


def main(
    output: Path, num_videos: int, seed: int = 0, side: int = 128, num_frames: int = NUM_FRAMES, fps: float = FPS
) -> None:
    """Write captioned videos.

    Args:
        output: folder for `videos.csv` and `videos/`; what is there already stays.
        num_videos: how many.
        seed: another one gives other videos.
        side: height and width in pixels, even.
        num_frames: of each video; more make the same motion smoother.
        fps: frames per second.
    """
    csv_path = write_videos(
        output, num_videos=num_videos, seed=seed, height=side, width=side, num_frames=num_frames, fps=fps
    )
    logger.info("%s", csv_path)


def write_videos(
    folder: Path,
    *,
    num_videos: int,
    seed: int = 0,
    height: int = 128,
    width: int = 128,
    num_frames: int = NUM_FRAMES,
    fps: float = FPS,
) -> Path:
    """Write random scenes, as `write_scenes` does.

    Args:
        folder: made if need be.
        num_videos: how many; a larger number later keeps the earlier files.
        seed: of `sample_scenes`.
        height: of the videos in pixels, even.
        width: of the videos in pixels, even.
        num_frames: of each video.
        fps: frames per second.

    Returns:
        The CSV's path.

    Raises:
        ValueError: an odd size, or a number that is not positive.
    """
    scenes = sample_scenes(num_videos, seed)
    return write_scenes(folder, scenes, height=height, width=width, num_frames=num_frames, fps=fps)


def write_scenes(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    style: str = "plain",
    with_motion: bool = True,
    height: int = 128,
    width: int = 128,
    num_frames: int = NUM_FRAMES,
    fps: float = FPS,
) -> Path:
    """Write `folder/videos/{page_dir}/{videoid}.mp4` and `folder/videos.csv`.

    The CSV has WebVid's columns: `videoid`, `contentUrl` (the file's path relative to `folder`), `duration`
    (`PT00H00M03S`), `page_dir` (`000001_000050`) and `name` (the caption). Ids come from what a video shows and how it
    was encoded. Files that exist are left as they are, so that a second run writes nothing but the same CSV.

    Args:
        folder: made if need be.
        scenes: one a video.
        style: a key of `drawing.STYLES`.
        with_motion: False leaves the motion out of the captions.
        height: of the videos in pixels, even.
        width: of the videos in pixels, even.
        num_frames: of each video.
        fps: frames per second.

    Returns:
        The CSV's path.

    Raises:
        ValueError: no scenes, an odd size, or a number that is not positive.
    """
    if min(len(scenes), height, width, num_frames) < 1 or fps <= 0 or height % 2 or width % 2:
        raise ValueError(
            "a video needs an even size and positive numbers, "
            f"not {len(scenes)} scenes, {height=} {width=} {num_frames=} {fps=}"
        )
    rows = []
    for i, scene in enumerate(scenes):
        video_id = _video_id(scene, style, height, width, num_frames, fps)
        row = _row(i, video_id, caption(scene, with_motion=with_motion), num_frames / fps)
        path = folder / row["contentUrl"]
        if not path.exists():
            frames = render(scene, num_frames=num_frames, height=height, width=width, style=style)
            storage.write_bytes(str(path), encode_mp4(frames, fps=fps))
        rows.append(row)
    csv_path = folder / "videos.csv"
    storage.write_bytes(str(csv_path), _csv_bytes(rows))
    return csv_path


def break_videos(folder: Path) -> dict[str, Breakage]:
    """Spoil three videos of a folder that `write_videos` filled, each as real collections are spoilt.

    "empty" has no bytes; "truncated" opens and promises all its frames, but its data ends half way; "text" is a web
    server's error page named .mp4. The choice depends on the CSV alone, and breaking twice is the same as once.

    Returns:
        What was done, by video id.

    Raises:
        UserError: the folder lists fewer than three videos.
    """
    csv_path = folder / "videos.csv"
    rows = list(csv.DictReader(io.StringIO(csv_path.read_text("utf-8")))) if csv_path.exists() else []
    if len(rows) < 3:
        raise UserError(f"{csv_path} lists {len(rows)} videos; breaking some takes at least 3")
    kinds: tuple[Breakage, ...] = ("empty", "truncated", "text")
    broken = {}
    for row, kind in zip(rows[:: len(rows) // 3], kinds, strict=False):
        path = folder / row["contentUrl"]
        content = {"empty": b"", "text": _TEXT}.get(kind)
        storage.write_bytes(str(path), _first_half(path.read_bytes()) if content is None else content)
        broken[row["videoid"]] = kind
    return broken


def _video_id(scene: Scene, style: str, height: int, width: int, num_frames: int, fps: float) -> str:
    """Ten digits, like WebVid's, from everything that decides the file's bytes."""
    # Plain videos keep the ids from before there were styles.
    look = () if style == "plain" else (style,)
    content = repr((_WORLD_VERSION, astuple(scene), height, width, num_frames, float(fps), *look))
    return str(10**9 + int(hashlib.sha256(content.encode()).hexdigest(), 16) % (9 * 10**9))


def _row(index: int, video_id: str, name: str, duration_s: float) -> dict[str, str]:
    first = index // _VIDEOS_PER_PAGE * _VIDEOS_PER_PAGE + 1
    page_dir = f"{first:06d}_{first + _VIDEOS_PER_PAGE - 1:06d}"
    values = (video_id, f"videos/{page_dir}/{video_id}.mp4", _iso_duration(duration_s), page_dir, name)
    return dict(zip(COLUMNS, values, strict=True))


def _iso_duration(seconds: float) -> str:
    """ISO 8601 in WebVid's fixed form, whole seconds, rounded up so that no video lasts none."""
    minutes, second = divmod(math.ceil(seconds), 60)
    return f"PT{minutes // 60:02d}H{minutes % 60:02d}M{second:02d}S"


def _csv_bytes(rows: list[dict[str, str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _first_half(mp4: bytes) -> bytes:
    """Return an MP4 up to the middle of its frames' data; the index stands before it and stays.

    The boxes' headers are read, not the file's length, so that a file already cut is not cut again.
    """
    position = 0
    while position + 8 <= len(mp4):
        size, kind = int.from_bytes(mp4[position : position + 4]), mp4[position + 4 : position + 8]
        if kind == b"mdat":
            return mp4[: position + size // 2]
        position += max(size, 8)
    raise ValueError("this MP4 has no mdat box")


if __name__ == "__main__":
    run(main)
