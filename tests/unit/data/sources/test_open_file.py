"""Videos opened to seek in: the same bytes as `fetch` gives, guarded as it is, and read only where they are needed."""

import io
import os

import av
import numpy as np
import pytest

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching import open_file
from animatediff.data.sources.fetching.open_file import open_video_file
from tests.support_videos import encode_frames
from tests.unit.data.sources.test_collections_tars import sample, write_tar
from tests.unit.data.sources.test_fetching import short_waits, web  # noqa: F401
from tests.unit.data.sources.test_reader import read, touch
from tests.unit.data.sources.test_tables_parquet import videos, write

VIDEO = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(open_file, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(open_file, "_BUFFER_BYTES", 1024)


def assert_reads_as(file, content):
    """As one does with a file: from the end, in steps, back and forth, past the end."""
    assert file.seek(0, io.SEEK_END) == len(content)
    assert file.read(10) == b""
    for start in (len(content) // 2, 0, len(content) - 5, len(content) + 5, 4095):
        file.seek(start)
        assert file.read(9000) == content[start : start + 9000]
        assert file.tell() == (start if start >= len(content) else min(start + 9000, len(content)))
    file.seek(0)
    assert file.read() == content


def refused(uri):
    with pytest.raises(VideoError) as error, open_video_file(uri) as file:
        file.read()
    assert error.value.stage == "fetch"
    return error.value.reason


def test_files_tar_members_and_cells_of_a_disk(tmp_path):
    touch(tmp_path / "a#1.mp4", VIDEO)
    touch(tmp_path / "caf\u00e9.mp4", VIDEO)
    write_tar(tmp_path / "s.tar", sample("000", 5000) + sample("001"))
    write(tmp_path / "t.parquet", {"id": [1, 2], "video": videos(2), "text": ["a", "b"]})
    for name in ("a#1.mp4", "cafe\u0301.mp4"):
        with open_video_file(f"{tmp_path}/{name}") as file:
            assert_reads_as(file, VIDEO)
    for name, content in (("s.tar", None), ("t.parquet", videos(2))):
        for number, video in enumerate(read(str(tmp_path / name))):
            expected = open_file.fetch(video.uri, max_bytes=10**6)
            assert content is None or expected == content[number]
            with open_video_file(video.uri) as file:
                assert_reads_as(file, expected)
    assert refused(f"{tmp_path}/absent.mp4") is Reason.NOT_FOUND
    assert refused(f"{tmp_path}/s.tar#offset=512&bytes=999999999") is Reason.FETCH_ERROR  # the tar ends before
    assert refused(f"zip://a.mp4::{tmp_path}/a.zip") is Reason.FETCH_REFUSED
    os.mkfifo(tmp_path / "pipe.mp4")
    for part in ("", "#offset=0&bytes=100", "#group=0&row=0&column=video"):
        assert refused(f"{tmp_path}/pipe.mp4{part}") is Reason.FETCH_REFUSED


def test_a_web_server_is_asked_for_the_blocks_that_are_read(web):  # noqa: F811
    web.files["/a.mp4"] = web.files["/s.tar"] = VIDEO
    with open_video_file(f"{web.uri}/a.mp4") as file:
        assert_reads_as(file, VIDEO)
    web.asked.clear()
    with open_video_file(f"{web.uri}/a.mp4") as file:
        for start in (0, 50_000, 0, 50_000):
            file.seek(start)
            assert file.read(100) == VIDEO[start : start + 100]
    assert len(web.asked) == 2
    with open_video_file(f"{web.uri}/s.tar#offset=512&bytes=20000") as file:
        assert_reads_as(file, VIDEO[512:20512])


@pytest.mark.parametrize("has_ranges", [True, False])
def test_what_passes_is_tried_again_block_by_block(web, has_ranges):  # noqa: F811
    web.has_ranges = has_ranges
    web.files["/a.mp4"], web.faults["/a.mp4"] = VIDEO, [500, "cut", None, 503, "cut"]
    with open_video_file(f"{web.uri}/a.mp4") as file:
        assert_reads_as(file, VIDEO)
    web.faults["/a.mp4"] = [500] * 3
    assert refused(f"{web.uri}/a.mp4") is Reason.FETCH_ERROR
    web.faults["/a.mp4"] = [403]
    assert refused(f"{web.uri}/a.mp4") is Reason.FETCH_REFUSED
    assert refused(f"{web.uri}/b.mp4") is Reason.NOT_FOUND


def test_a_web_server_without_ranges_sends_the_file_once_and_no_more_than_allowed(web, monkeypatch):  # noqa: F811
    web.files["/a.mp4"], web.has_ranges = VIDEO, False
    with open_video_file(f"{web.uri}/a.mp4") as file:
        assert_reads_as(file, VIDEO)
    assert len(web.asked) == 1
    monkeypatch.setattr(open_file, "MAX_COPY_BYTES", len(VIDEO) - 1)
    assert refused(f"{web.uri}/a.mp4") is Reason.TOO_LARGE
    web.faults["/a.mp4"] = ["endless"]
    assert refused(f"{web.uri}/a.mp4") is Reason.TOO_LARGE
    assert web.num_sent < 50_000_000


def test_what_is_read_on_comes_in_larger_pieces(web):  # noqa: F811
    web.files["/a.mp4"] = VIDEO
    with open_video_file(f"{web.uri}/a.mp4") as file:
        for start in range(0, len(VIDEO), 500):
            file.seek(start)
            assert file.read(500) == VIDEO[start : start + 500]
    assert len(web.asked) == 1 + 5  # 4096 bytes, then 8192, 16384, and 32768 three times but for the end


def test_a_part_of_a_server_without_ranges_is_refused(web):  # noqa: F811
    web.files["/s.tar"], web.has_ranges = VIDEO, False
    assert refused(f"{web.uri}/s.tar#offset=512&bytes=2000") is Reason.FETCH_ERROR


def test_an_object_store_is_read_by_ranges(s3, monkeypatch):
    s3.put_object(Bucket="videos", Key="a.mp4", Body=VIDEO)
    with open_video_file("s3://videos/a.mp4") as file:
        assert_reads_as(file, VIDEO)
    with open_video_file("s3://videos/a.mp4#offset=512&bytes=20000") as file:
        assert_reads_as(file, VIDEO[512:20512])
    assert refused("s3://videos/absent.mp4") is Reason.NOT_FOUND
    s3.put_object(Bucket="videos", Key="a.mp4", Body=b"longer than it was" * 10_000)
    with open_video_file("s3://videos/a.mp4") as file:
        assert file.seek(0, io.SEEK_END) == 180_000


def test_a_storage_that_fails_while_a_video_is_demuxed_is_not_the_videos_fault(web):  # noqa: F811
    web.files["/a.mp4"] = encode_frames(
        np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), dtype=np.uint8), codec="mpeg4"
    )
    with open_video_file(f"{web.uri}/a.mp4") as file, av.open(file) as container:
        web.faults["/a.mp4"] = [500] * 100
        with pytest.raises(VideoError, match="cannot read") as error:
            list(container.demux(video=0))
    assert error.value.reason is Reason.FETCH_ERROR
