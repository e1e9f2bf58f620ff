"""Shots as scanning gives them, without a video."""

import io

import numpy as np
from PIL import Image

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.curation import scan_parts
from animatediff.data.scoring.scores import score
from animatediff.data.shots.shot import ScannedVideo, Shot
from animatediff.data.sources.spec import SourceVideo


def jpeg(level):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 9), (level, level, level)).save(buffer, "JPEG")
    return buffer.getvalue()


def shot(number, *, seconds=3.0, **fields):
    frames = np.random.default_rng(number).integers(0, 255, (4, 32, 32, 3), np.uint8)
    start = number * (seconds + 1)
    values = {
        "first": round(24 * start),
        "num_frames": round(24 * seconds),
        "start_pts": round(1000 * start),
        "last_pts": round(1000 * (start + seconds)) - 42,
        "start_s": start,
        "end_s": start + seconds,
        "border_before": "cut",
        "border_after": "dissolve",
        "cut_strength": 0.5,
        "scores": score(frames),
        "text": 0.1,
        "phashes": (),
        "previews": (jpeg(10), jpeg(20), jpeg(30)),
        "num_bytes": 1000,
        "reason": "",
    }
    return Shot(**values | fields)


def scanned(shots, crop=None):
    return ScannedVideo(640, 360, 24.0, "1/1000", 10_000, 400.0, crop, tuple(shots))


def commit_video(folder, number, shots, *, rejections=()):
    """A part of one video, `unit-N` of `episode-N`; the unit's id."""
    video = SourceVideo(f"episode-{number}", f"/videos/episode-{number}.mkv", "")
    unit_id = f"unit-{number}"
    scan_parts.commit(
        str(folder), unit_id, scan_parts.shot_rows(unit_id, video, scanned(shots, CropBox(0, 40, 640, 280))), rejections
    )
    return unit_id
