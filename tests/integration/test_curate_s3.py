"""Episodes in S3 to clips in S3, over real HTTP: videos are read by ranges, and the shots are those of the file."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff import storage
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.clips.config import ClipConfig
from animatediff.data.curation import inspection
from animatediff.data.curation.selection import SelectConfig
from animatediff.data.inspection.verify import verify
from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.copies import copy_shot
from animatediff.data.shots.scan import scan_video
from animatediff.data.sources.spec import SourceConfig
from pipelines import curate, ingest
from pipelines.settings import CurateConfig, IngestConfig
from tests.integration.faulty_proxy import CountingProxy
from tests.support_episodes import build_episode
from tests.support_videos import encode_frames

pytestmark = pytest.mark.ray
MOST_AT_ONCE = 4 << 20
LOSSLESS = {"codec": "libx264", "options": {"qp": "0", "preset": "ultrafast", "g": "12"}, "pix_fmt": "yuv444p"}


def describe(frames, facts):
    return f"{len(frames)} pictures from {facts['start_s']:.2f} s on"


def grainy_film():
    """Eight shots in as many bytes as minutes of other films have."""
    frames = build_episode(5, num_shots=8).frames
    grain = np.random.default_rng(0).integers(0, 8, frames.shape, np.uint8)
    return encode_frames(np.minimum(frames, 247) + grain, container="matroska", **LOSSLESS)


SHOTS = ShotConfig(min_s=0.8)
SHOT = ("first", "num_frames", "start_pts", "last_pts", "start_s", "end_s", "border_before", "border_after")


def make_config(source, output, **fields):
    return CurateConfig(
        source=SourceConfig(uri=source),
        output_uri=output,
        captions=CaptionConfig(function=f"{__name__}:describe", frames=2, side=64),
        shots=SHOTS,
        select=SelectConfig(where="true", max_text=1, max_shots_per_video=2),
        max_quarantine_rate=1,
        **fields,
    )


def rows_of(output, manifest):
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(f"{output}/{s.path}"))) for s in manifest.shards]
    return pa.concat_tables(tables).to_pylist()


def test_episodes_in_a_store_are_read_by_ranges(workers_here, server, base, monkeypatch):
    host, port, client = server
    film = grainy_film()
    assert len(film) > 3 * MOST_AT_ONCE
    for name, data in {"a.mkv": film, "cut.mkv": film[:400], "empty.mkv": b""}.items():
        client.put_object(Bucket="videos", Key=f"in/{name}", Body=data)
    proxy = CountingProxy(host, port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

    output = "s3://videos/shots"
    manifest = curate.main(make_config("s3://videos/in", output))
    reads = proxy.take("in/a.mkv")
    assert max(reads) <= MOST_AT_ONCE
    # Once each for packets, bars and frames, then what is around two shots, for captions and for shards.
    assert 2 * len(film) < sum(reads) < 5 * len(film)
    assert manifest.quarantined == {"truncated": 1, "empty": 1}
    rows = rows_of(output, manifest)
    assert [[row[name] for name in SHOT] for row in rows] == [
        [getattr(shot, name) for name in SHOT] for shot in scan_video(film, SHOTS).shots
    ]
    videos = {(row["start_pts"], row["last_pts"]): row["video"] for row in rows if row["selected"]}
    assert len(videos) == manifest.num_selected == 2
    for (start, last), video in videos.items():
        assert video == copy_shot(io.BytesIO(film), start_pts=start, last_pts=last)
    assert inspection.verify(output, manifest).problems == []

    references = curate.main(make_config("s3://videos/in", output, store="reference"))
    assert rows_of(output, references) == [row | {"video": None} for row in rows]
    assert proxy.take("in/a.mkv") == []  # neither scanned nor captioned again
    clips = ClipConfig(num_frames=4, stride=2, height=32, width=32)
    dataset = "s3://videos/dataset"
    latents = ingest.main(
        IngestConfig(source=SourceConfig(uri=output), output_uri=dataset, base=base, clips=clips, num_encoders=1)
    )
    reads = proxy.take("in/a.mkv")
    assert max(reads) <= MOST_AT_ONCE
    assert 0 < sum(reads) < len(film)  # for both shots
    assert (latents.num_videos, latents.quarantined) == (2, {})
    assert verify(dataset).problems == []
    proxy.stop()
