"""Episodes in S3 to clips in S3, over real HTTP: videos are read by ranges, and the shots are those of a local run."""

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


def make_config(source, output, **fields):
    return CurateConfig(
        source=SourceConfig(uri=str(source)),
        output_uri=str(output),
        captions=CaptionConfig(function=f"{__name__}:describe", frames=2, side=64),
        shots=ShotConfig(min_s=0.8),
        select=SelectConfig(where="true", max_text=1, max_shots_per_video=2),
        **fields,
    )


def shots_of(output, manifest):
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(f"{output}/{s.path}"))) for s in manifest.shards]
    return [{name: row[name] for name in row if name != "uri"} for row in pa.concat_tables(tables).to_pylist()]


def test_episodes_in_a_store_are_read_by_ranges(workers_here, server, base, tmp_path, monkeypatch):
    host, port, client = server
    film = encode_frames(build_episode(5, num_shots=8).frames, container="matroska", **LOSSLESS)
    assert len(film) > 2 * MOST_AT_ONCE
    local = tmp_path / "in"
    local.mkdir()
    for name, data in {"a.mkv": film, "cut.mkv": film[:400], "empty.mkv": b""}.items():
        (local / name).write_bytes(data)
        client.put_object(Bucket="videos", Key=f"in/{name}", Body=data)
    proxy = CountingProxy(host, port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

    there, here = "s3://videos/shots", str(tmp_path / "shots")
    manifest = curate.main(make_config("s3://videos/in", there, max_quarantine_rate=1))
    scanned = proxy.take("in/a.mkv")
    assert max(scanned) <= MOST_AT_ONCE
    # Once for the packets and once to decode, then what is around two shots, for captions and for shards.
    assert 2 * len(film) < sum(scanned) < 3.2 * len(film)
    alike = curate.main(make_config(local, here, max_quarantine_rate=1))
    rows = shots_of(there, manifest)
    assert rows == shots_of(here, alike)
    assert sum(row["video"] is not None for row in rows) == manifest.num_selected == 2
    assert manifest.quarantined == alike.quarantined
    assert sum(manifest.quarantined.values()) == 2
    assert inspection.verify(there, manifest).problems == []

    references = curate.main(make_config("s3://videos/in", there, max_quarantine_rate=1, store="reference"))
    assert [row | {"video": None} for row in rows] == shots_of(there, references)
    assert proxy.take("in/a.mkv") == []  # neither scanned nor captioned again
    clips = ClipConfig(num_frames=4, stride=2, height=32, width=32)
    dataset = "s3://videos/dataset"
    config = IngestConfig(source=SourceConfig(uri=there), output_uri=dataset, base=base, clips=clips, num_encoders=1)
    latents = ingest.main(config)
    cut = proxy.take("in/a.mkv")
    assert max(cut) <= MOST_AT_ONCE
    assert 0 < sum(cut) < len(film) / 2
    assert (latents.num_videos, latents.quarantined) == (2, {})
    assert verify(dataset).problems == []
    proxy.stop()
