"""A unit's videos end as clips or as one rejection each; an outage is neither."""

import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor
from animatediff.data.ingest import decode_unit as units
from animatediff.data.ingest.plan import Unit
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from tests.fake_decoders import Segfault
from tests.faulty_copies import SWELL
from tests.support import bar_position, encode, gradient_frames, mp4

CLIPS = ClipConfig(num_frames=4, stride=2, height=32, width=48, windows_per_video=2)
DECODE = DecodeConfig(decoders=("tests.fake_decoders:Segfault",))
COPIES = CopySupervisor(DECODE)  # has no process until a shot is wanted


@pytest.fixture(scope="module")
def supervisor():
    with DecodeSupervisor(DECODE, CLIPS) as made:
        yield made


def make_unit(folder, contents):
    videos = []
    for name, data in contents.items():
        path = folder / name
        if data is not None:
            path.write_bytes(data)
        videos.append(SourceVideo(name, str(path), f"caption of {name}"))
    return Unit(0, "u", tuple(videos))


def decode(unit, supervisor, max_bytes=10_000_000):
    return units.decode_unit(unit, supervisor, copies=COPIES, max_bytes=max_bytes)


def test_every_video_ends_as_clips_or_as_one_rejection(tmp_path, supervisor):
    crash = encode(gradient_frames(20), codec="libx264", title=Segfault.marker)
    contents = {"good": mp4(20), "short": mp4(5), "empty": b"", "gone": None, "crash": crash, "other": mp4(24)}
    result = decode(make_unit(tmp_path, contents), supervisor)
    assert [clip.clip_id for clip in result.clips] == ["good-0", "good-1", "other-0", "other-1"]
    first, last = result.clips[:2]
    assert first.decoded_clip.frames.shape == (4, 32, 48, 3)
    assert (first.decoded_clip.t_start, round(last.decoded_clip.t_end, 3)) == (0.0, 19 / 25)
    positions = [bar_position(frame) for frame in first.decoded_clip.frames]
    assert positions == sorted(positions)
    assert first.decoded_clip.scores["motion"] > 0
    assert first.num_clips_of_video == 2
    assert [(r.video_id, r.stage, r.reason, r.attempts) for r in result.rejections] == [
        ("short", "probe", Reason.TOO_SHORT, 1),
        ("empty", "probe", Reason.EMPTY, 1),
        ("gone", "fetch", Reason.NOT_FOUND, 1),
        ("crash", "decode", Reason.DECODER_CRASH, 3),
    ]
    assert [r.bytes for r in result.rejections] == [len(mp4(5)), 0, None, len(crash)]


def test_too_large_a_file_is_not_read(tmp_path, supervisor):
    (rejection,) = decode(make_unit(tmp_path, {"big": mp4(20), "good": b""}), supervisor, max_bytes=100).rejections[:1]
    assert (rejection.reason, rejection.bytes) == (Reason.TOO_LARGE, None)


def test_one_failing_fetch_is_a_row_but_an_outage_is_not(tmp_path, supervisor, monkeypatch):
    unit = make_unit(tmp_path, {"good": mp4(20), "bad": mp4(20)})
    real = units.fetch_video

    def failing(names):
        def fetch(uri, **bounds):
            if uri.endswith(names):
                raise VideoError("fetch", Reason.FETCH_ERROR, "503")
            return real(uri, **bounds)

        return fetch

    monkeypatch.setattr(units, "fetch_video", failing(("bad",)))
    result = decode(unit, supervisor)
    assert [(r.video_id, r.reason, r.attempts) for r in result.rejections] == [("bad", Reason.FETCH_ERROR, 6)]
    monkeypatch.setattr(units, "fetch_video", failing(("good", "bad")))
    with pytest.raises(UserError, match="no video of unit u can be fetched, nor others .*, is the storage down"):
        decode(unit, supervisor)
    asked = []
    result = units.decode_unit(
        unit, supervisor, copies=COPIES, max_bytes=10_000_000, is_outage=lambda unit: bool(asked.append(unit))
    )
    assert asked == [unit]
    assert [r.reason for r in result.rejections] == [Reason.FETCH_ERROR] * 2


@pytest.mark.parametrize("num_before", [0, 1], ids=["from the first video on", "in the middle of the unit"])
def test_a_store_that_is_away_for_a_while_costs_no_video(tmp_path, supervisor, monkeypatch, num_before):
    """As it is seen from a machine that is cut off: at first some videos come, then none, then all."""
    unit = make_unit(tmp_path, {name: mp4(20) for name in ("one", "two", "three")})
    real, calls = units.fetch_video, []

    def fetch(uri, **bounds):
        calls.append(uri)
        if num_before < len(calls) <= num_before + 6:
            raise VideoError("fetch", Reason.FETCH_ERROR, "no route to host")
        return real(uri, **bounds)

    def is_outage(unit):
        return units._Fetching(10_000_000, False, COPIES).fetch(unit.videos[0].uri).error is not None

    monkeypatch.setattr(units, "fetch_video", fetch)
    monkeypatch.setattr(units, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(units, "_FETCHED_AHEAD", 1)
    undisturbed = units.decode_unit(
        unit, supervisor, copies=COPIES, max_bytes=10_000_000, is_outage=is_outage, max_outage_s=60
    )
    assert undisturbed.rejections == []
    assert [clip.clip_id for clip in undisturbed.clips] == ["one-0", "one-1", "two-0", "two-1", "three-0", "three-1"]
    assert len(calls) > 6

    calls.clear()
    with pytest.raises(UserError, match="video of unit u can be fetched, nor others beside them"):
        units.decode_unit(unit, supervisor, copies=COPIES, max_bytes=10_000_000, is_outage=is_outage)


def test_a_video_that_never_comes_costs_no_other_and_no_waiting(tmp_path, supervisor, monkeypatch):
    """A file that is not there, or too large, is an answer of its store as well."""
    unit = make_unit(tmp_path, {"bad": mp4(20), "good": mp4(20), "gone": None})
    real = units.fetch_video

    def fetch(uri, **bounds):
        if uri.endswith("bad"):
            raise VideoError("fetch", Reason.FETCH_ERROR, "403")
        return real(uri, **bounds)

    monkeypatch.setattr(units, "fetch_video", fetch)
    result = units.decode_unit(unit, supervisor, copies=COPIES, max_bytes=10_000_000, max_outage_s=600)
    assert [(r.video_id, r.reason) for r in result.rejections] == [
        ("bad", Reason.FETCH_ERROR),
        ("gone", Reason.NOT_FOUND),
    ]


def test_a_store_that_is_gone_for_good_puts_its_videos_aside(tmp_path, supervisor, monkeypatch):
    unit = make_unit(tmp_path, {"good": mp4(20)})
    away = SourceVideo("away", "s3://gone/away.mp4", "a bar")
    unit = Unit(0, "u", (*unit.videos, away))
    real = units.fetch_video

    def fetch(uri, **bounds):
        if uri.startswith("s3://"):
            raise VideoError("fetch", Reason.FETCH_ERROR, "no route to host")
        return real(uri, **bounds)

    monkeypatch.setattr(units, "fetch_video", fetch)
    result = units.decode_unit(unit, supervisor, copies=COPIES, max_bytes=10_000_000, max_outage_s=None)
    assert [r.video_id for r in result.rejections] == ["away"]
    # Another store of the same unit works, which says nothing about this one.
    with pytest.raises(UserError, match="not every video of unit u can be fetched"):
        units.decode_unit(unit, supervisor, copies=COPIES, max_bytes=10_000_000, is_outage=lambda unit: True)


def test_secrets_of_an_address_stay_out_of_the_quarantine(supervisor):
    video = SourceVideo("a", "http://127.0.0.1:9/a.mp4?token=secret", "a bar")
    good = SourceVideo("b", "/nowhere/b.mp4", "a bar")
    result = decode(Unit(0, "u", (video, good)), supervisor)
    assert "secret" not in repr(result.rejections)
    assert {r.reason for r in result.rejections} == {Reason.FETCH_ERROR, Reason.NOT_FOUND}


def test_videos_are_fetched_ahead_but_never_all(tmp_path, supervisor, monkeypatch):
    unit = make_unit(tmp_path, {f"v{i}": mp4(20) for i in range(20)})
    fetched, most = [], []
    real_fetch, real_cut = units.fetch_video, supervisor.cut
    monkeypatch.setattr(units, "fetch_video", lambda uri, **kw: (fetched.append(uri), real_fetch(uri, **kw))[1])
    cuts = []

    def cut(name, data, crop):
        cuts.append(name)
        most.append(len(fetched) - len(cuts))
        return real_cut(name, data, crop)

    monkeypatch.setattr(supervisor, "cut", cut)
    result = decode(unit, supervisor)
    assert [clip.video.video_id for clip in result.clips[::2]] == [f"v{i}" for i in range(20)]
    assert 1 <= max(most) <= 5


def test_a_shot_that_takes_all_memory_is_a_row(tmp_path, supervisor, monkeypatch):
    monkeypatch.setenv("FAULTS_LOG", str(tmp_path / "faults"))
    (tmp_path / "film.mp4").write_bytes(mp4(40))
    shots = [f"{tmp_path / 'film.mp4'}#pts={start},{start}" for start in (SWELL, 0)]
    uris = [shots[0], str(tmp_path / "film.mp4"), shots[1]]
    unit = Unit(0, "u", tuple(SourceVideo(f"v{i}", uri, "a bar") for i, uri in enumerate(uris)))
    with CopySupervisor(DecodeConfig(memory_mb=256)) as copies:
        copies._module = "tests.faulty_copies"
        result = units.decode_unit(unit, supervisor, copies=copies, max_bytes=10_000_000)
    assert [clip.clip_id for clip in result.clips] == ["v1-0", "v1-1"]
    assert [(r.video_id, r.stage, r.reason, r.attempts) for r in result.rejections] == [
        ("v0", "decode", Reason.OUT_OF_MEMORY, 1),
        ("v2", "probe", Reason.TOO_SHORT, 1),
    ]
