import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from animatediff.data.decoding import videos
from animatediff.data.decoding.stream import stream_frames
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.scoring.columns import SCORE_COLUMNS
from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS
from animatediff.data.shots.scan import scan_video
from animatediff.errors import UserError
from tests.support import audio_only, encode
from tests.support_episodes import build_episode
from tests.support_videos import encode_frames, remux

SHORT = ShotConfig(min_s=0.5, max_s=1.5)
OPTIONS = {"crf": "23"}


@pytest.fixture(scope="module")
def episode():
    return build_episode(8, num_shots=16)


@pytest.fixture(scope="module")
def mkv(episode):
    return encode_frames(episode.frames, codec="libx264", container="matroska", fps=Fraction(24000, 1001))


@pytest.fixture(scope="module")
def scanned(mkv):
    return scan_video(io.BytesIO(mkv), SHORT)


def test_the_video_is_described(scanned, episode):
    assert (scanned.width, scanned.height, scanned.num_frames) == (320, 180, len(episode.frames))
    assert (scanned.time_base, scanned.crop) == ("1/1000", None)
    assert scanned.fps == pytest.approx(24000 / 1001, rel=1e-4)
    assert scanned.duration_s == pytest.approx(len(episode.frames) * 1001 / 24000, abs=0.01)


def test_no_shot_holds_a_border_and_none_is_far_from_one(scanned, episode):
    for shot in scanned.shots:
        end = shot.first + shot.num_frames
        assert not any(shot.first < border.last and end > border.first for border in episode.borders)
    kept = sum(shot.num_frames for shot in scanned.shots)
    assert kept > 0.5 * len(episode.frames)
    assert [s.first for s in scanned.shots] == sorted(s.first for s in scanned.shots)


def test_shots_have_the_times_and_timestamps_of_their_frames(scanned, mkv):
    info = videos.probe(mkv)
    for shot in scanned.shots:
        last = shot.first + shot.num_frames - 1
        assert (shot.start_pts, shot.last_pts) == (info.pts[shot.first], info.pts[last])
        assert shot.start_s == pytest.approx(info.timestamps[shot.first])
        assert shot.end_s == pytest.approx(info.timestamps[last] + 1001 / 24000, abs=1e-3)
        assert 0 < shot.num_bytes < len(mkv)


def test_lengths_are_kept(scanned):
    for shot in scanned.shots:
        length = shot.end_s - shot.start_s
        assert length <= SHORT.max_s + 1e-3
        assert shot.reason == ("too_short" if length < SHORT.min_s - 1e-3 else "")
    assert {"split", "cut", "dissolve", "fade", "start"} <= {shot.border_before for shot in scanned.shots}
    assert {"too_short", ""} == {shot.reason for shot in scanned.shots}


def test_previews_and_scores_are_of_the_shots_own_frames(scanned, episode):
    for shot in (shot for shot in scanned.shots if shot.num_frames > 8):
        places = (shot.first, shot.first + shot.num_frames // 2, shot.first + shot.num_frames - 1)
        for place, jpeg in zip(places, shot.previews, strict=True):
            preview = Image.open(io.BytesIO(jpeg))
            assert preview.size == (160, 90)
            picture = Image.fromarray(episode.frames[place]).resize((16, 9), Image.Resampling.BOX)
            difference = np.abs(np.asarray(preview.resize((16, 9), Image.Resampling.BOX), int) - np.asarray(picture))
            assert difference.mean() < 30  # a sample is up to three frames away, and one shot is shaken
        assert set(shot.scores) == (set() if shot.reason else set(SCORE_COLUMNS))
        assert len(shot.phashes) in ((0,) if shot.reason else (0, NUM_MOMENTS * NUM_WORDS))


def test_a_scan_is_repeatable_and_takes_bytes_as_well(scanned, mkv):
    assert scan_video(mkv, SHORT) == scanned


def test_twice_the_rate_gives_the_same_shots(scanned, episode):
    """Of 48 frames a second every second is looked at; margins count pairs."""
    frames = np.repeat(episode.frames[:300], 2, axis=0)
    found = scan_video(encode_frames(frames, codec="libx264", fps=48), SHORT)
    slow = [s for s in scanned.shots if s.first + s.num_frames < 200]
    assert len(slow) == 5
    for one, other in zip(slow, found.shots, strict=False):
        assert (one.border_before, one.border_after) == (other.border_before, other.border_after)
        assert abs(2 * one.first - other.first) <= 2
        assert abs(2 * one.num_frames - other.num_frames) <= 4


def test_bars_are_found_first_and_are_in_no_sample(episode):
    frames = episode.frames.copy()
    frames[:, :22] = frames[:, -22:] = 0
    frames[:, :, :40] = frames[:, :, -40:] = 0
    data = encode_frames(frames, codec="libx264", options={"g": "24"})
    found = scan_video(data, SHORT)
    assert found.crop == (40, 22, 240, 136)
    assert {Image.open(io.BytesIO(s.previews[0])).size for s in found.shots if s.previews} == {(160, 91)}
    assert scan_video(data, ShotConfig(crop_bars=False)).crop is None


def test_a_variable_rate_splits_by_time(episode):
    frames = np.repeat(episode.frames[:1], 120, axis=0)
    frames[:, 10:40, 10:40] = (np.arange(120) % 200)[:, None, None, None]
    pts = np.cumsum(np.where(np.arange(120) < 60, 20, 100))
    found = scan_video(encode(frames, codec="libx264", container="matroska", pts=pts.tolist()), ShotConfig(max_s=3))
    assert [round(shot.end_s - shot.start_s, 1) for shot in found.shots] == [
        pytest.approx(3, abs=0.11),
        *[2.1] * 2,
    ] or (max(shot.end_s - shot.start_s for shot in found.shots) <= 3.1)
    assert sum(shot.num_frames for shot in found.shots) == 120


def test_another_size_is_a_border_and_a_reason(episode):
    small = np.stack([np.asarray(Image.fromarray(f).resize((160, 90))) for f in episode.frames[:40]])
    parts = [encode_frames(part, codec="libx264", container="mpegts") for part in (small, episode.frames[:120])]
    found = scan_video(remux(parts, "mpegts", offset_s=1.7), SHORT)
    assert (found.width, found.height) == (320, 180)
    assert {shot.reason for shot in found.shots if shot.first < 40} == {"size_changes"}
    assert not any(shot.first < 40 < shot.first + shot.num_frames for shot in found.shots)
    assert "size_changes" not in {shot.reason for shot in found.shots if shot.first >= 40}


def damaged(data, numbers):
    def damage(number, packet):
        if number in numbers:
            memoryview(packet)[4:] = bytes(packet.size - 4)

    return remux([data], "matroska", change=damage)


def usable(found):
    return [shot for shot in found.shots if shot.reason != "damaged"]


def damaged_frames(found):
    return [(s.first, s.first + s.num_frames) for s in found.shots if s.reason == "damaged"]


def test_frames_that_do_not_decode_are_a_row_of_their_own(episode):
    frames = episode.frames[:20].repeat(4, axis=0)
    data = encode(frames, codec="mpeg4", b_frames=0, gop=12)
    found = scan_video(damaged(data, range(30, 34)), ShotConfig(min_s=0.5))
    assert not any(shot.first < 34 and shot.first + shot.num_frames > 30 for shot in usable(found))
    assert damaged_frames(found)[0][0] == 30
    assert found.shots[-1].border_after == "end"
    assert sum(shot.num_frames for shot in usable(found)) > 60
    tail = scan_video(damaged(data, range(60, 80)), ShotConfig(min_s=0.5))
    assert max(shot.first + shot.num_frames for shot in usable(tail)) <= 61
    assert damaged_frames(tail)[-1][0] == 60
    with pytest.raises(VideoError) as caught:
        scan_video(damaged(data, range(80)), ShotConfig())
    assert caught.value.reason is Reason.DECODE_ERROR


def broken(ts, *, at, kind):
    """A transport stream with some packets of 188 bytes lost, or marked as broken by the receiver."""
    at = int(at * len(ts)) // 188 * 188
    if kind == "lost":
        return ts[:at] + ts[at + 188 * 3 :]
    return ts[: at + 1] + bytes([ts[at + 1] | 0x80]) + ts[at + 2 :]


@pytest.fixture(scope="module")
def ts(episode):
    return encode_frames(episode.frames[293:513], codec="libx264", container="mpegts", options={"g": "24", "bf": "2"})


@pytest.mark.parametrize("kind", ["lost", "marked"])
def test_a_broken_packet_of_a_broadcast_costs_the_frames_around_it_alone(ts, kind):
    config = ShotConfig(min_s=0.3)
    data = broken(ts, at=0.5, kind=kind)
    found = scan_video(data, config)
    (spoiled,) = damaged_frames(found)
    assert 10 < spoiled[1] - spoiled[0] < 80
    assert sum(shot.num_frames for shot in usable(found)) > 80
    info, sound = videos.probe(data, keep_damaged=True), videos.probe(ts)
    pictures = {int(sound.pts[n]): f.to_ndarray(format="rgb24") for n, f in stream_frames(ts, sound)}
    taken = {n for shot in usable(found) for n in range(shot.first, shot.first + shot.num_frames)}
    for n, frame in stream_frames(data, info):
        assert n not in taken or np.array_equal(frame.to_ndarray(format="rgb24"), pictures[int(info.pts[n])])
    with pytest.raises(VideoError) as caught:
        videos.probe(data)
    assert (caught.value.reason, "damaged in the file" in caught.value.detail) == (Reason.TRUNCATED, True)


def test_what_the_decoder_has_to_guess_is_damaged_too(ts):
    """No container says it: random bytes within pictures."""
    noise = np.random.default_rng(1).integers(0, 256, 80, dtype=np.uint8).tobytes()
    guessed = 0
    for at in (188 * (len(ts) // 376 + step) + 60 for step in (0, 7, 14, 21)):
        data = ts[:at] + noise + ts[at + 80 :]
        info = videos.probe(data, keep_damaged=True)
        marked = {number for number, frame in stream_frames(data, info) if frame.is_corrupt}
        rows = damaged_frames(scan_video(data, ShotConfig(min_s=0.3)))
        assert all(any(first <= number < end for first, end in rows) for number in marked)
        guessed += len(marked)
    assert guessed


def test_a_cut_off_file_gives_the_shots_up_to_there_or_its_reason(mkv):
    found = scan_video(mkv[: len(mkv) * 2 // 3], SHORT)
    assert 200 < found.num_frames < 500
    assert len(found.shots) > 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"no video" * 99, Reason.NOT_VIDEO),
        (audio_only(), Reason.NO_STREAM),
    ],
)
def test_what_is_no_video_has_a_reason(data, reason):
    with pytest.raises(VideoError) as caught:
        scan_video(io.BytesIO(data), ShotConfig())
    assert caught.value.reason is reason


def test_limits_hold(mkv):
    with pytest.raises(VideoError) as caught:
        scan_video(mkv, ShotConfig(), max_pixels=1000)
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_single_picture_is_a_short_shot(episode):
    buffer = io.BytesIO()
    Image.fromarray(episode.frames[0]).save(buffer, "PNG")
    (shot,) = scan_video(buffer.getvalue(), ShotConfig()).shots
    assert (shot.num_frames, shot.reason) == (1, "too_short")


class EveryTenth:
    """A detector of one's own, which knows where cuts are."""

    height, width = 9, 16
    settled = 0

    def add(self, picture):
        from animatediff.data.shots.detectors import Border

        assert picture.shape == (9, 16, 3)
        self.settled += 1
        return [Border(self.settled - 1, self.settled - 1, "cut", 0.5)] if self.settled % 10 == 1 else []

    def finish(self):
        return []


def test_a_detector_of_ones_own_is_named_by_its_path(mkv):
    config = ShotConfig(detector=f"{__name__}:EveryTenth", min_s=0.1)
    found = scan_video(mkv, config)
    assert {(shot.first % 10, shot.num_frames) for shot in found.shots[:-1]} == {(1, 8)}
    with pytest.raises(UserError, match="shots.detector names nowhere:Nothing, which cannot be imported: No module"):
        scan_video(mkv, ShotConfig(detector="nowhere:Nothing"))
