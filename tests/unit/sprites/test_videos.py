"""The written videos are what decoders and the CSV's readers expect, and the broken ones are broken."""

import csv
import hashlib

import av
import decord
import numpy as np
import pytest

from animatediff.errors import UserError
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import caption, sample_scenes
from animatediff.sprites.videos import FPS, NUM_FRAMES, break_videos, write_scenes, write_videos

SMALL = {"height": 64, "width": 80}


def rows(folder):
    return list(csv.DictReader((folder / "videos.csv").open(newline="")))


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def decode(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.frames, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sprites")
    write_videos(folder, num_videos=6, **SMALL)
    return folder


def test_the_csv_is_webvids_and_lists_the_files(folder):
    listed = rows(folder)
    assert list(listed[0]) == ["videoid", "contentUrl", "duration", "page_dir", "name"]
    assert [row["name"] for row in listed] == [caption(s) for s in sample_scenes(6, 0)]
    assert {row["duration"] for row in listed} == {"PT00H00M03S"}
    assert {row["page_dir"] for row in listed} == {"000001_000050"}
    assert all(row["contentUrl"] == f"videos/{row['page_dir']}/{row['videoid']}.mp4" for row in listed)
    assert {folder / row["contentUrl"] for row in listed} == set(folder.rglob("*.mp4"))


def test_both_decoders_read_every_frame(folder):
    assert NUM_FRAMES >= 15 * 4 + 1
    for path in folder.rglob("*.mp4"):
        reader = decord.VideoReader(str(path))
        promised, frames = decode(path)
        assert len(reader) == len(frames) == promised == NUM_FRAMES
        assert reader[0].shape == frames[0].shape == (64, 80, 3)
        assert reader.get_avg_fps() == FPS


def test_the_videos_show_their_scenes(folder):
    scene = sample_scenes(1, 0)[0]
    _, frames = decode(folder / rows(folder)[0]["contentUrl"])
    drawn = render(scene, num_frames=NUM_FRAMES, **SMALL)
    assert np.abs(np.stack(frames).astype(float) - drawn).mean() < 4


def test_a_second_run_writes_the_same_and_leaves_what_exists(tmp_path, folder):
    write_videos(tmp_path, num_videos=2, num_frames=4, **SMALL)
    before = digests(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.mp4")}
    write_videos(tmp_path, num_videos=2, num_frames=4, **SMALL)
    assert digests(tmp_path) == before
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.mp4")} == times
    write_videos(tmp_path / "again", num_videos=2, num_frames=4, **SMALL)
    assert digests(tmp_path / "again") == before


def test_a_longer_list_keeps_the_earlier_files_and_fills_the_next_page(tmp_path):
    tiny = {"height": 16, "width": 16, "num_frames": 1, "fps": 0.5}
    write_videos(tmp_path, num_videos=3, **tiny)
    first = rows(tmp_path)
    write_videos(tmp_path, num_videos=51, **tiny)
    assert rows(tmp_path)[:3] == first
    assert rows(tmp_path)[50]["page_dir"] == "000051_000100"
    assert rows(tmp_path)[50]["duration"] == "PT00H00M02S"
    assert len({row["videoid"] for row in rows(tmp_path)}) == 51


def test_ids_tell_videos_of_other_sizes_apart(tmp_path, folder):
    write_videos(tmp_path, num_videos=1, height=16, width=16, num_frames=2)
    assert rows(tmp_path)[0]["videoid"] != rows(folder)[0]["videoid"]


def test_given_scenes_come_in_the_style_asked_for_and_their_captions_may_leave_out_the_motion(tmp_path):
    scenes = sample_scenes(2, 1)
    for style in ("plain", "chalk"):
        write_scenes(tmp_path / style, scenes, style=style, with_motion=False, num_frames=2, **SMALL)
    plain, chalk = rows(tmp_path / "plain"), rows(tmp_path / "chalk")
    assert [row["name"] for row in chalk] == [caption(scene, with_motion=False) for scene in scenes]
    assert not {row["videoid"] for row in plain} & {row["videoid"] for row in chalk}
    _, frames = decode(tmp_path / "chalk" / chalk[0]["contentUrl"])
    drawn = render(scenes[0], num_frames=2, style="chalk", **SMALL)
    assert np.abs(np.stack(frames).astype(float) - drawn).mean() < 8


@pytest.mark.parametrize("change", [{"height": 63}, {"num_videos": 0}, {"fps": 0}])
def test_what_cannot_be_written_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match="even size and positive numbers"):
        write_videos(tmp_path, **({"num_videos": 1} | change))


def test_broken_videos_really_fail(tmp_path):
    write_videos(tmp_path, num_videos=7, **SMALL)
    whole = digests(tmp_path)
    broken = break_videos(tmp_path)
    assert sorted(broken.values()) == ["empty", "text", "truncated"]
    paths = {kind: next(tmp_path.rglob(f"{video_id}.mp4")) for video_id, kind in broken.items()}
    assert paths["empty"].stat().st_size == 0
    assert paths["text"].read_text().startswith("<html>")
    for path in paths.values():
        with pytest.raises((RuntimeError, decord.DECORDError)):
            decord.VideoReader(str(path))[NUM_FRAMES - 1]
        with pytest.raises(av.error.InvalidDataError):
            decode(path)

    with av.open(paths["truncated"]) as container:
        stream = container.streams.video[0]
        assert stream.frames == NUM_FRAMES  # it opens, and promises what it does not hold
        assert next(container.decode(stream)).height == 64

    after = digests(tmp_path)
    assert {p.stem for p in paths.values()} == {n.split("/")[-1][:-4] for n in whole if whole[n] != after[n]}
    assert break_videos(tmp_path) == broken
    assert digests(tmp_path) == after
    write_videos(tmp_path, num_videos=7, **SMALL)
    assert digests(tmp_path) == after  # a second run does not heal them


def test_breaking_needs_three_videos(tmp_path):
    with pytest.raises(UserError, match="lists 0 videos"):
        break_videos(tmp_path)
