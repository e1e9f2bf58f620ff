"""Shots are cut in a child process: whatever happens there is that shot's reason, and the next one is cut."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.curation import seal
from animatediff.data.curation.source_copies import SourceCopies
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.decoding.videos import probe
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.copies import copy_shot
from animatediff.data.shots.copies.frames import WantedFrames, read_shot_frames
from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.data.shots.supervisor import ShotSupervisor
from animatediff.data.sources.uris import ShotPart
from animatediff.errors import UserError
from tests.faulty_copies import CONFUSED, CRASH, HANG, SWELL
from tests.support import encode, gradient_frames
from tests.support_collections import shot_row
from tests.support_videos import encode_frames

LIMITS = DecodeConfig()
NARROW = DecodeConfig(memory_mb=256)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    path.write_bytes(encode(gradient_frames(60), codec="libx264", container="matroska", gop=20, b_frames=2))
    return path


@pytest.fixture(scope="module")
def copies():
    with CopySupervisor(LIMITS) as made:
        yield made


@pytest.fixture
def tries(tmp_path, monkeypatch):
    """How often the faulty process has tried each shot, as a function."""
    log = tmp_path / "faults"
    log.touch()
    monkeypatch.setenv("FAULTS_LOG", str(log))
    return lambda: [int(line) for line in log.read_text().split()]


def faulty(supervisor):
    supervisor._module = "tests.faulty_copies"
    return supervisor


def part(film, first, last):
    pts = probe(film.read_bytes()).pts
    return ShotPart(str(film), int(pts[first]), int(pts[last]))


def test_what_the_child_cuts_is_what_is_cut_without_it(copies, film):
    shot = part(film, 25, 40)
    with film.open("rb") as file:
        expected = copy_shot(file, start_pts=shot.start_pts, last_pts=shot.last_pts)
    before = copies.copy(shot, num_frames=16, trusted=True)
    assert before == expected
    pid = copies.child_pid
    for crop in (None, CropBox(8, 8, 40, 24)):
        wanted = WantedFrames(5, 32, crop)
        assert np.array_equal(copies.frames(shot, wanted), read_shot_frames(expected, wanted))
    # A verdict is no fault of the process.
    for wrong, reason in ((shot._replace(uri=f"{film}.gone"), Reason.NOT_FOUND), (part(film, 40, 25), None)):
        with pytest.raises(VideoError) as error:
            copies.copy(wrong)
        assert error.value.reason is (reason or Reason.DECODE_ERROR)
    with pytest.raises(VideoError, match="16 frames are shown .* 17 are expected"):
        copies.copy(shot, num_frames=17)
    assert copies.copy(shot) == expected
    assert copies.child_pid == pid


@pytest.mark.parametrize(
    ("fault", "limits", "reason", "num_tries", "detail"),
    [
        (CRASH, LIMITS, Reason.DECODER_CRASH, 3, "the copying of a shot died by SIGSEGV, 3 times"),
        (HANG, DecodeConfig(timeout_s=0.3), Reason.DECODER_HANG, 2, "the copying of a shot was not done after 0.3 s"),
        (SWELL, NARROW, Reason.OUT_OF_MEMORY, 1, "MemoryError"),
        (CONFUSED, LIMITS, Reason.DECODE_ERROR, 1, "ZeroDivisionError: by nothing"),
    ],
)
def test_whatever_happens_is_a_reason(film, tries, fault, limits, reason, num_tries, detail):
    with faulty(CopySupervisor(limits)) as copies:
        with pytest.raises(VideoError) as error:
            copies.copy(ShotPart(str(film), fault, 0))
        assert (error.value.stage, error.value.reason) == ("decode", reason)
        assert error.value.detail.startswith(detail)
    assert tries() == [fault] * num_tries


class Late(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(1.2)
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def late():
    """A video of a web server that answers late, and then that there is none."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/film.mkv"
        server.shutdown()


def test_what_a_storage_says_is_waited_for_beyond_the_deadline_of_decoding(late):
    """Or an outage, in which asking in vain takes a minute, would make damaged videos of good ones."""
    limits = ScanLimits(timeout_s=0.5)
    with CopySupervisor(limits) as copies, ShotSupervisor(ShotConfig(), limits) as scans:
        for work in (lambda: copies.copy(ShotPart(late, 0, 9)), lambda: scans.scan(late)):
            with pytest.raises(VideoError) as error:
                work()
            assert (error.value.stage, error.value.reason) == ("fetch", Reason.NOT_FOUND)


def test_a_video_that_kills_three_times_in_a_row_is_given_up(monkeypatch):
    asked = []

    def ask(shot, *rest):
        asked.append(shot)
        if shot.start_pts:
            raise VideoError("decode", Reason.DECODER_HANG, "not done in time")
        return np.zeros(3, np.uint8)

    with CopySupervisor(LIMITS) as copies:
        monkeypatch.setattr(copies, "_ask", ask)
        good, bad = ShotPart("film", 0, 9), ShotPart("film", 1, 9)
        for shot in (bad, bad, good, bad, bad, bad):  # what can be cut speaks for the others
            if shot is good:
                copies.copy(shot)
                continue
            with pytest.raises(VideoError, match="^.*not done in time"):
                copies.copy(shot)
        assert len(asked) == 6
        for shot in (bad, good):
            with pytest.raises(VideoError) as error:
                copies.copy(shot)
            assert error.value.reason is Reason.DECODER_HANG
            assert error.value.detail == "3 shots before it: not done in time"
        assert len(asked) == 6
        assert copies.copy(good._replace(uri="other"))


def test_frames_that_take_too_much_memory_are_a_reason(copies, tmp_path):
    """A real one: pictures of 6 million pixels that only encoding anew can cut out."""
    path = tmp_path / "large.wmv"
    frames = np.random.default_rng(0).integers(0, 256, (2, 2000, 3000, 3), np.uint8)
    path.write_bytes(encode_frames(frames, codec="wmv2", container="asf"))
    info = probe(path.read_bytes())
    shot = ShotPart(str(path), int(info.pts[0]), int(info.pts[1]))
    with CopySupervisor(DecodeConfig(memory_mb=64)) as narrow:
        with pytest.raises(VideoError) as error:
            narrow.copy(shot)
        assert error.value.reason is Reason.OUT_OF_MEMORY
    assert len(probe(copies.copy(shot)).pts) == 2


def test_a_child_killed_from_outside_and_threads_that_meet_change_nothing(copies, film):
    shots = [part(film, first, first + 5) for first in range(0, 50, 5)]
    expected = [copies.copy(shot) for shot in shots]
    first = copies.child_pid
    os.kill(first, signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copies.copy, shots)) == expected
    assert copies.child_pid != first


def test_shots_of_a_collection_have_the_reason_in_their_rows(film, tmp_path, tries):
    """As the curate job seals them, and as ingest takes references."""
    good = shot_row(film, 3, 12)
    rows = [good, *(good | {"start_pts": fault} for fault in (SWELL, CONFUSED)), good | {"num_frames": 7}, good]
    with SourceCopies(NARROW, trusted=False) as copies:
        faulty(copies._supervisor)
        sealed = [seal._with_video(row, copies.copy) for row in rows]
        assert [row["reason"] for row in sealed] == ["", "out_of_memory", "not_copied", "not_copied", ""]
        assert [row["selected"] for row in sealed] == [True, False, False, False, True]
        assert sealed[0]["video"] == sealed[-1]["video"] == good["video"]
        assert copies.frames(good, number=4, side=32).shape[0] == 4
        with pytest.raises(UserError, match="a source of shots cannot be read any more, restore it"):
            copies.copy(good | {"uri": str(tmp_path / "gone.mkv")})
