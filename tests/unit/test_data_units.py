import pytest

from animatediff import storage
from animatediff.data import units
from animatediff.data.clips import ClipConfig
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Reason
from animatediff.data.sources import SourceVideo
from animatediff.errors import UserError
from tests.support import bar_position, mp4

CONFIG = ClipConfig(num_frames=4, stride=2, height=32, width=48, windows_per_video=2)


def make_unit(tmp_path, contents):
    videos = []
    for name, data in contents.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        videos.append(SourceVideo(name, str(path), f"caption of {name}"))
    return Unit(0, "u", tuple(videos))


def test_every_video_ends_as_clips_or_as_one_rejection(tmp_path):
    unit = make_unit(tmp_path, {"good": mp4(20), "short": mp4(5), "empty": b"", "gone": None})
    result = units.decode_unit(unit, CONFIG)
    assert [clip.clip_id for clip in result.clips] == ["good-0", "good-1"]
    first, last = result.clips
    assert first.frames.shape == (4, 32, 48, 3)
    assert (first.t_start, round(last.t_end, 3)) == (0.0, 19 / 25)
    positions = [bar_position(frame) for frame in first.frames]
    assert positions == sorted(positions)
    assert first.motion > 0
    assert [(r.video_id, r.stage, r.reason) for r in result.rejected] == [
        ("short", "probe", Reason.TOO_SHORT),
        ("empty", "probe", Reason.EMPTY),
        ("gone", "fetch", Reason.NOT_FOUND),
    ]
    assert [r.bytes for r in result.rejected] == [len(mp4(5)), 0, None]


def test_a_decoders_surprise_is_a_row_too(tmp_path, monkeypatch):
    def surprise(data):
        raise KeyError("strange box")

    monkeypatch.setattr(units.videos, "probe", surprise)
    (rejection,) = units.decode_unit(make_unit(tmp_path, {"odd": mp4(20)}), CONFIG).rejected
    assert (rejection.reason, rejection.detail) == (Reason.DECODE_ERROR, "KeyError: 'strange box'")


def test_one_failing_fetch_is_a_row_but_an_outage_is_not(tmp_path, monkeypatch):
    unit = make_unit(tmp_path, {"good": mp4(20), "bad": mp4(20)})
    real, calls = storage.read_bytes, []

    def flaky(uri):
        calls.append(uri)
        if uri.endswith("bad"):
            raise UserError("503")
        return real(uri)

    monkeypatch.setattr(units.time, "sleep", lambda _: None)
    monkeypatch.setattr(storage, "read_bytes", flaky)
    result = units.decode_unit(unit, CONFIG)
    assert [(r.video_id, r.reason, r.attempts) for r in result.rejected] == [("bad", Reason.FETCH_ERROR, 3)]
    assert len(calls) == 4

    monkeypatch.setattr(storage, "read_bytes", lambda uri: (_ for _ in ()).throw(UserError("503")))
    with pytest.raises(UserError, match="no video of unit u can be fetched, is the storage down"):
        units.decode_unit(unit, CONFIG)
