"""A curated collection is a source: its selected shots, frame for frame those of the videos that were curated."""

import json

import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders.pyav import PyAV
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.decoding.videos import probe
from animatediff.data.ingest.plan import Planner, read_plan_file, read_unit
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.fetching import ask_for_video, fetch_video
from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.errors import UserError
from tests.support import encode, gradient_frames
from tests.support_collections import shot_row, write_collection
from tests.support_videos import encode_frames
from tests.unit.data.sources.test_reader import read

CLIPS = ClipConfig(num_frames=6, stride=2, height=32, width=48)
SHOTS = [(0, 24), (31, 55), (58, 89)]


@pytest.fixture(scope="module")
def copies():
    with CopySupervisor(DecodeConfig()) as made:
        yield made


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    path.write_bytes(encode(gradient_frames(90), codec="libx264", container="matroska", gop=20, b_frames=2))
    return path


def rows_of(film):
    rows = [shot_row(film, *shot, tags=["a", "b"] if shot[0] else None) for shot in SHOTS]
    return [*rows, shot_row(film, 25, 30, selected=False, reason="too_short"), shot_row(film, 0, 9, caption=None)]


@pytest.mark.parametrize("store", ["copy", "reference"])
def test_selected_shots_are_ingested_as_the_same_times_of_the_source(tmp_path, film, copies, store):
    write_collection(tmp_path / "shots", rows_of(film), store=store)
    found = read(tmp_path / "shots")
    assert [video.video_id for video in found] == [f"film.mkv@{a:09d}-{b:09d}" for a, b in [*SHOTS, (0, 9)]]
    assert [video.caption for video in found] == ["frames from 0 on", "frames from 31 on", "frames from 58 on", ""]
    assert [video.tags for video in found] == [(), ("a", "b"), ("a", "b"), ()]
    assert [video.fault and video.fault.reason for video in found] == [None, None, None, Reason.NO_CAPTION]
    source = film.read_bytes()
    for (first, _), video in zip(SHOTS, found, strict=False):
        data = fetch_video(video.uri, max_bytes=10**7, copies=copies)
        (clip,) = cut_clips(video.video_id, data, CLIPS, [PyAV()])
        indices = first + 2 * np.arange(6)
        expected, _ = read_frames(source, probe(source), FrameSelection(indices, 32, 48), [PyAV()])
        assert np.array_equal(clip.frames, expected)


def test_bars_are_cut_off_before_anything_else(tmp_path):
    """The clips are those of a video that never had bars, to the last bit, and so is what is told of their crop."""
    bare = gradient_frames(30, height=48, width=96)
    barred = np.full((30, 70, 106, 3), 255, np.uint8)  # what leaks in shows
    barred[:, 12:60, 4:100] = bare
    lossless = {"codec": "ffv1", "container": "matroska"}

    plain = encode_frames(bare, pix_fmt="bgr0", **lossless)
    with_bars = encode_frames(barred, pix_fmt="bgr0", **lossless)
    box = CropBox(4, 12, 96, 48)
    for changes in ({}, {"flip": True}, {"camera": "pan_right"}, {"sizes": ((24, 48),)}, {"height": 16, "width": 16}):
        clips = ClipConfig.model_validate(CLIPS.model_dump() | changes)
        expected = cut_clips("v", plain, clips, [PyAV()])
        found = cut_clips("v", with_bars, clips, [PyAV()], crop=box)
        assert [clip.source_crop for clip in found] == [clip.source_crop for clip in expected]
        for one, other in zip(found, expected, strict=True):
            if changes.get("height") == 16:  # decoded smaller where nothing is cut off
                assert np.abs(one.frames.astype(int) - other.frames).mean() < 2
            else:
                assert np.array_equal(one.frames, other.frames)
    with pytest.raises(VideoError, match="cropped to") as error:
        cut_clips("v", plain, CLIPS, [PyAV()], crop=box)
    assert error.value.reason is Reason.SIZE_CHANGES


def test_the_plan_keeps_what_shots_have_and_is_as_ever_without(tmp_path, film):
    rows = [shot_row(film, *SHOTS[0], crop=(0, 4, 96, 56)), shot_row(film, *SHOTS[1], tags=["x", "y"])]
    write_collection(tmp_path / "shots", rows)
    found = read(tmp_path / "shots")
    assert found[0].crop == CropBox(0, 4, 96, 56)
    planner = Planner(str(tmp_path / "dataset"), dataset_key="k", videos_per_unit=8)
    planner.add(found)
    planner.finish()
    assert list(read_unit(str(tmp_path / "dataset"), planner.units[0]).videos) == found
    without = Planner(None, dataset_key="k", videos_per_unit=8)
    write_collection(tmp_path / "bare", [row | dict.fromkeys(("crop_x", "tags")) for row in rows])
    without.add(read(tmp_path / "bare"))
    without.finish()
    assert without.units[0].unit_id != planner.units[0].unit_id  # what a unit is made of has its own name
    table = read_plan_file(str(tmp_path / "dataset"), planner.units[0].plan_file)
    assert table.column_names[:5] == ["ordinal", "unit_id", "video_id", "uri", "caption"]


def test_references_lead_where_rows_may(tmp_path, film, copies):
    rows = [shot_row(film, *SHOTS[0], uri="ftp://somewhere/a.mkv"), shot_row(film, *SHOTS[1])]
    write_collection(tmp_path / "shots", rows, store="reference")
    assert [video.fault and video.fault.reason for video in read(tmp_path / "shots")] == [Reason.FETCH_REFUSED, None]
    film_is_gone = shot_row(film, *SHOTS[2], uri=str(tmp_path / "gone.mkv"))
    write_collection(tmp_path / "gone", [film_is_gone], store="reference")
    (video,) = read(tmp_path / "gone")
    with pytest.raises(VideoError) as error:
        fetch_video(video.uri, max_bytes=10**7, copies=copies)
    assert error.value.reason is Reason.NOT_FOUND
    with pytest.raises(VideoError) as error:
        ask_for_video(video.uri, max_bytes=1)
    assert error.value.reason is Reason.NOT_FOUND
    ask_for_video(read(tmp_path / "shots")[1].uri, max_bytes=1)
    with pytest.raises(VideoError) as error:
        fetch_video(read(tmp_path / "shots")[1].uri, max_bytes=100, copies=copies)
    assert error.value.reason is Reason.TOO_LARGE


def test_a_collection_is_told_from_other_folders(tmp_path, film):
    rows = [shot_row(film, *SHOTS[0])]
    write_collection(tmp_path / "damaged", rows)
    manifest = tmp_path / "damaged" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("copy", "reference"))
    with pytest.raises(UserError, match=r"manifest\.json was changed or damaged"):
        read(tmp_path / "damaged")
    write_collection(tmp_path / "gap", rows)
    (tmp_path / "gap" / "shots" / "shots-000-00000.parquet").unlink()
    with pytest.raises(UserError, match="there is no file"):
        read(tmp_path / "gap")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "manifest.json").write_text(json.dumps(["no", "kind"]))
    (tmp_path / "own" / "a.mkv").write_bytes(film.read_bytes())
    (tmp_path / "own" / "a.txt").write_text("a film")
    assert [video.caption for video in read(tmp_path / "own")] == ["a film"]
