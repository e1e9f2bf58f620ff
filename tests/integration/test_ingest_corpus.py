"""A collection as the web gives it: one file in twenty is bad. Each is told, and nothing else is lost."""

from collections import Counter

import pytest

from animatediff.data import shards
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.inspection.verify import verify
from animatediff.data.sources.spec import SourceConfig
from pipelines import ingest
from pipelines.settings import IngestConfig
from tests.fake_decoders import Hang, Hungry, Segfault
from tests.support import audio_only, encode, gradient_frames, mp4
from tests.support_videos import encode_frames, remux
from tests.unit.data.decoding.test_found_videos import repeat
from tests.unit.data.decoding.test_videos import claiming

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_GOOD = 209


def marked(fake):
    return encode(gradient_frames(20), codec="libx264", title=fake.marker)


BAD = {
    "zero-bytes.mp4": (b"", "empty"),
    "cut.mp4": (mp4(20)[: len(mp4(20)) // 2], "truncated"),
    "page.mp4": (b"<html><body>404 Not Found</body></html>" * 9, "not_video"),
    "sound.mp4": (audio_only(), "no_stream"),
    "one-frame.mp4": (mp4(1), "too_short"),
    "huge.mkv": (claiming(65_535, "matroska"), "too_large"),
    "huge.avi": (claiming(65_535, "avi"), "decode_error"),
    "crash.mp4": (marked(Segfault), "decoder_crash"),
    "hang.mp4": (marked(Hang), "decoder_hang"),
    "hungry.mp4": (marked(Hungry), "out_of_memory"),
}
ODD = {
    "av1.mp4": encode(gradient_frames(20), codec="libsvtav1"),
    "really-a-webm.mp4": encode(gradient_frames(20), codec="libvpx-vp9", container="webm"),
    # Cut from a longer recording, before a key frame.
    "CUT.MKV": remux([encode(gradient_frames(60), codec="libx264", gop=12, b_frames=2)], "matroska", skip=5),
    "two-sizes.ts": remux(
        [encode(gradient_frames(30, *size), codec="libx264", container="mpegts") for size in ((64, 96), (96, 64))],
        "mpegts",
        offset_s=1.2,
    ),
    "hlg.mp4": encode_frames(gradient_frames(20), codec="libx265", pix_fmt="yuv420p10le", tags=(9, 9, 18)),
    "interlaced.m2ts": encode_frames(
        gradient_frames(30), codec="libx264", container="mpegts", options={"x264-params": "tff=1"}
    ),
    "repeated.wmv": remux([encode(gradient_frames(30), codec="mpeg4")], "matroska", change=repeat(17)),
    "moving.gif": encode_frames(gradient_frames(20), codec="gif", container="gif", pix_fmt="rgb8"),
}
UNREAD = {"mute.mp4": "no_caption", "shift-jis.mp4": "bad_caption"}
NOT_TAKEN = ["notes.nfo", "moving.webp", ".part"]


def test_every_bad_file_has_its_reason_and_all_others_their_clips(cluster, base, tmp_path, caplog):
    folder = tmp_path / "videos"
    folder.mkdir()
    files = {name: data for name, (data, _) in BAD.items()} | ODD
    files |= {f"good-{i:03}.mp4": mp4(17 + i % 40) for i in range(NUM_GOOD - len(ODD))}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        # A captions' file may be written in capitals where its video is not, and the other way round.
        (folder / name).with_suffix(".TXT" if name in ODD else ".txt").write_text(f"a bar, {name}")
    for name in ("mute.mp4", "shift-jis.mp4", *NOT_TAKEN):
        (folder / name).write_bytes(mp4(20))
    (folder / "shift-jis.txt").write_bytes("猫が走る".encode("shift_jis"))
    config = IngestConfig(
        source=SourceConfig(uri=str(folder)),
        output_uri=str(tmp_path / "dataset"),
        base=base,
        clips=ClipConfig(height=32, width=32, stride=1),
        decode=DecodeConfig(decoders=("tests.fake_decoders:Wicked",), timeout_s=3, memory_mb=512),
        clips_per_unit=16,
        num_encoders=1,
    )
    manifest = ingest.main(config)

    expected = {name: reason for name, (_, reason) in BAD.items()} | UNREAD
    rows = read_quarantine(config.output_uri).to_pylist()
    assert {row["video_id"]: row["reason"] for row in rows} == expected
    assert manifest.quarantined == dict(Counter(expected.values()))
    stored = [name for shard in manifest.shards for name in ids(config.output_uri, shard)]
    assert sorted(stored) == sorted(set(files) - set(BAD))
    told = "not taken: 1 .nfo, 1 .webp, 1 hidden"
    assert told in caplog.text
    assert verify(config.output_uri).problems == []
    for row in rows:
        assert row["stage"] in ("plan", "probe", "decode")
        assert row["detail"]
    attempts = {row["video_id"]: row["attempts"] for row in rows}
    assert (attempts["crash.mp4"], attempts["hang.mp4"], attempts["cut.mp4"]) == (3, 2, 1)


def ids(dataset, shard):
    return shards.read_columns(f"{dataset}/{shard.path}", ["video_id"])["video_id"].to_pylist()
