import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.supervision import process as child_process
from animatediff.errors import UserError
from tests.fake_decoders import BadAlloc, Chatty, Hang, Hungry, Segfault, Slow
from tests.support import encode, gradient_frames, mp4

CLIPS = ClipConfig(num_frames=4, stride=2, height=64, width=64)


def faking(fake, **limits):
    """A supervisor whose first decoder is `fake`."""
    return DecodeSupervisor(DecodeConfig(decoders=(f"tests.fake_decoders:{fake.__name__}", "pyav"), **limits), CLIPS)


def marked(fake):
    return encode(gradient_frames(8), codec="libx264", title=fake.marker)


def rejection(decoding, data):
    with pytest.raises(VideoError) as caught:
        decoding.cut("a", data)
    assert caught.value.stage == "decode"
    return caught.value


@pytest.fixture(scope="module")
def plain():
    with DecodeSupervisor(DecodeConfig(), CLIPS) as decoding:
        yield decoding


def test_windows_are_those_of_cut_itself(plain):
    data = mp4(20)
    (here,) = cut_clips("a", data, CLIPS, load_decoders(DecodeConfig().decoders))
    (there,) = plain.cut("a", data)
    assert np.array_equal(here.frames, there.frames)
    assert (here.scores, here.decoder, here.t_end) == (there.scores, there.decoder, there.t_end)


def test_a_verdict_leaves_the_child_as_it_is(plain):
    plain.cut("a", mp4(20))
    before = plain.child_pid
    for data, reason in ((b"", Reason.EMPTY), (b"no video" * 99, Reason.NOT_VIDEO), (mp4(3), Reason.TOO_SHORT)):
        with pytest.raises(VideoError) as caught:
            plain.cut("a", data)
        assert (caught.value.stage, caught.value.reason) == ("probe", reason)
    assert plain.cut("a", mp4(20))
    assert plain.child_pid == before


@pytest.mark.parametrize(
    ("fake", "reason", "detail"),
    [
        (Segfault, Reason.DECODER_CRASH, "segfault died by SIGSEGV, 3 times"),
        (BadAlloc, Reason.OUT_OF_MEMORY, "badalloc died by SIGABRT, 3 times: what():  std::bad_alloc"),
    ],
)
def test_a_crash_is_tried_three_times_and_the_next_video_goes_on(fake, reason, detail):
    with faking(fake) as decoding:
        error = rejection(decoding, marked(fake))
        assert (error.reason, error.detail) == (reason, detail)
        assert decoding.cut("b", mp4(8))


def test_a_hang_that_holds_the_interpreter_is_killed():
    with faking(Hang, timeout_s=0.5) as decoding:
        error = rejection(decoding, marked(Hang))
        assert error.reason is Reason.DECODER_HANG
        assert error.detail.endswith("was not done after 0.5 s and twice the video's length, 2 times")


def test_memory_is_limited_beyond_what_an_idle_child_has():
    with faking(Hungry, memory_mb=300) as decoding:
        assert rejection(decoding, marked(Hungry)).reason is Reason.OUT_OF_MEMORY
        assert decoding.child_pid is None  # a fresh one for the next
        assert decoding.cut("b", mp4(8))


def test_a_child_killed_from_outside_changes_nothing():
    data = marked(Slow)
    (want,) = cut_clips("a", encode(gradient_frames(8), codec="libx264"), CLIPS, load_decoders(["pyav"]))
    with faking(Slow) as decoding:
        decoding.cut("b", mp4(8))
        first = decoding.child_pid
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        (got,) = decoding.cut("a", data)
        assert decoding.child_pid != first
    assert np.array_equal(want.frames, got.frames)
    assert (got.index, got.t_start, got.scores) == (want.index, want.t_start, want.scores)


def test_a_child_killed_while_idle_changes_nothing(plain):
    plain.cut("a", mp4(8))
    os.kill(plain.child_pid, signal.SIGKILL)
    assert plain.cut("a", mp4(8))


def test_children_are_replaced_after_their_share_of_files():
    with DecodeSupervisor(DecodeConfig(files_per_child=2), CLIPS) as decoding:
        pids = []
        for _ in range(3):
            decoding.cut("a", mp4(8))
            pids.append(decoding.child_pid)
    assert pids[0] == pids[1] != pids[2]


def test_what_decoders_print_reaches_nobody(capfd):
    with faking(Chatty) as decoding:
        assert decoding.cut("a", marked(Chatty))
    assert capfd.readouterr() == ("", "")


def test_a_stopped_child_is_a_hang_too(plain, monkeypatch):
    monkeypatch.setattr(child_process, "_STALL_S", 1)
    with DecodeSupervisor(DecodeConfig(), CLIPS) as decoding:
        decoding.cut("a", mp4(8))
        os.kill(decoding.child_pid, signal.SIGSTOP)
        assert decoding.cut("a", mp4(8) + bytes(2_000_000))


def test_an_interrupted_cut_does_not_answer_the_next(monkeypatch):
    with DecodeSupervisor(DecodeConfig(), CLIPS) as decoding:
        decoding.cut("a", mp4(8))
        first = decoding.child_pid
        with monkeypatch.context() as patch:
            patch.setattr(child_process, "wait", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                decoding.cut("a", mp4(8))
        assert decoding.child_pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


def test_a_child_that_cannot_start_is_the_users_to_mend(monkeypatch, tmp_path):
    with (
        DecodeSupervisor(DecodeConfig(decoders=("torchcodec",)), CLIPS) as decoding,
        pytest.raises(UserError, match="decode.decoders names torchcodec, which is not installed"),
    ):
        decoding.cut("a", mp4(8))
    assert decoding.child_pid is None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="the decoding process does not start: .*No such file"):
        DecodeSupervisor(DecodeConfig(), CLIPS).cut("a", mp4(8))
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'no such module' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match="does not start: it ended with status 1 no such module"):
        DecodeSupervisor(DecodeConfig(), CLIPS).cut("a", mp4(8))


PARENT = """
import sys
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor
from tests.support import encode, gradient_frames, mp4
decode = DecodeConfig(decoders=("tests.fake_decoders:Hang",), timeout_s=2)
decoding = DecodeSupervisor(decode, ClipConfig(num_frames=4, stride=2, height=64, width=64))
decoding.cut("a", mp4(8))
print(decoding.child_pid, flush=True)
if sys.argv[1] == "decoding":
    decoding.cut("b", encode(gradient_frames(8), codec="libx264", title="fake-hang"))
sys.stdin.read()
"""


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("state", ["idle", "decoding"])
def test_no_orphan_outlives_a_killed_parent(state):
    """When idle it sees the socket's end; in a hang the kernel's alarm ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_the_decoding_process_loads_no_heavy_library():
    code = (
        "import sys, animatediff.data.decoding.child\n"
        "from animatediff.data.decoding.decoders import load_decoders\n"
        "load_decoders(['decord', 'pyav'])\n"
        "print({'torch', 'ray', 'diffusers', 'mlflow', 'pyarrow'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


@pytest.mark.parametrize(
    ("decoders", "says"),
    [(("decrod",), "there is no decoder 'decrod', known are decord, .*pyav"), ((), "at least one is needed")],
)
def test_a_mistyped_decoder_is_told_with_the_config(decoders, says):
    with pytest.raises(ValueError, match=says):
        DecodeConfig(decoders=decoders)
