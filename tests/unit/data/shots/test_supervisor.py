import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.scan import scan_video
from animatediff.data.shots.supervisor import ShotSupervisor
from animatediff.errors import UserError
from tests.support_episodes import build_episode, write_video

CONFIG = ShotConfig(min_s=0.5)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes") / "a.mkv"
    write_video(path, build_episode(3, num_shots=5).frames)
    return str(path)


@pytest.fixture(scope="module")
def shared():
    with ShotSupervisor(CONFIG, DecodeConfig()) as scanning:
        yield scanning


class Failing:
    """Detectors that end the process at the twentieth frame."""

    height = width = 8
    settled = 0

    def add(self, picture):
        self.settled += 1
        if self.settled == 20:
            self.fail()
        return []

    def finish(self):
        return []


class Hang(Failing):
    def fail(self):
        signal.pause()


class Confused(Failing):
    def fail(self):
        raise ZeroDivisionError("by nothing")


def test_a_scan_in_the_child_is_the_scan_itself(shared, video):
    with Path(video).open("rb") as file:
        assert shared.scan(video, trusted=True) == scan_video(file, CONFIG)


def test_a_verdict_leaves_the_child_as_it_is(shared, video, tmp_path):
    shared.scan(video)
    before = shared.child_pid
    (tmp_path / "text.mkv").write_text("no video" * 99)
    for uri, reason in ((str(tmp_path / "text.mkv"), Reason.NOT_VIDEO), (str(tmp_path / "none"), Reason.NOT_FOUND)):
        with pytest.raises(VideoError) as caught:
            shared.scan(uri)
        assert caught.value.reason is reason
    assert shared.scan(video)
    assert shared.child_pid == before


@pytest.mark.parametrize(
    ("fake", "reason", "detail"),
    [
        (Hang, Reason.DECODER_HANG, "the scan was not done after 0.5 s and twice the video's length, 2 times"),
        (Confused, Reason.DECODE_ERROR, "ZeroDivisionError: by nothing"),
    ],
)
def test_whatever_happens_is_a_reason(fake, reason, detail, tmp_path):
    path = tmp_path / "short.mkv"
    write_video(path, build_episode(3, num_shots=1).frames[:30])
    config = ShotConfig(detector=f"{__name__}:{fake.__name__}")
    with ShotSupervisor(config, DecodeConfig(timeout_s=0.5 if fake is Hang else 30)) as scanning:
        with pytest.raises(VideoError) as caught:
            scanning.scan(str(path))
        assert caught.value.reason is reason
        assert caught.value.detail.startswith(detail)


def test_a_child_killed_from_outside_changes_nothing(video):
    with ShotSupervisor(CONFIG, DecodeConfig()) as scanning:
        want = scanning.scan(video)
        first = scanning.child_pid
        threading.Timer(0.05, os.kill, (first, signal.SIGKILL)).start()
        assert scanning.scan(video) == want
        assert scanning.scan(video) == want
        assert scanning.child_pid != first


def test_a_detector_that_cannot_be_loaded_is_the_users_to_mend(video):
    with (
        ShotSupervisor(ShotConfig(detector="nowhere:Nothing"), DecodeConfig()) as scanning,
        pytest.raises(UserError, match="shots.detector names nowhere:Nothing, which cannot be imported"),
    ):
        scanning.scan(video)


def test_the_scanning_process_loads_no_heavy_library():
    code = (
        "import sys, animatediff.data.shots.child\n"
        "print({'torch', 'ray', 'diffusers', 'transformers', 'mlflow', 'cv2', 'pyarrow'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
