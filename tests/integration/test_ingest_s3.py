"""Ingest from S3 to S3, over real HTTP, also where the connection is bad."""

from pathlib import Path

import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.sources.spec import SourceConfig
from pipelines import ingest
from pipelines.settings import IngestConfig
from tests.integration.conftest import hashes
from tests.integration.faulty_proxy import FaultyProxy
from tests.support import mp4, write_yaml

pytestmark = pytest.mark.ray


def make_config(source, output, base):
    return IngestConfig(
        source=SourceConfig(uri=source),
        output_uri=output,
        base=base,
        clips=ClipConfig(height=32, width=32),
        clips_per_unit=2,
        num_encoders=1,  # each imports torch for seconds
    )


def fill(client, videos):
    """Each video with its caption, as objects below `in/`."""
    for name, data in videos.items():
        client.put_object(Bucket="videos", Key=f"in/{name}.mp4", Body=data)
        client.put_object(Bucket="videos", Key=f"in/{name}.txt", Body=f"clip {name}".encode())


def keys(client):
    return {item["Key"] for item in client.list_objects_v2(Bucket="videos", Prefix="out/")["Contents"]}


def test_a_bad_connection_changes_no_byte(workers_here, server, base, tmp_path, run_job, caplog):
    """One request in eight fails; the shards are those of a local run of the same videos.

    From S3 to S3 in a process of its own, as the credentials come from the environment.
    """
    host, port, client = server
    videos = {f"v{i:02}": mp4(61 + i) for i in range(12)} | {"cut": mp4(64)[:2000], "empty": b""}
    fill(client, videos)
    (tmp_path / "in").mkdir()
    for name, data in videos.items():
        (tmp_path / "in" / f"{name}.mp4").write_bytes(data)
        (tmp_path / "in" / f"{name}.txt").write_text(f"clip {name}")
    ingest.main(make_config(str(tmp_path / "in"), str(tmp_path / "out"), base))

    proxy = FaultyProxy(host, port, share=1 / 8)
    config = make_config("s3://videos/in", "s3://videos/out", base).model_dump(mode="json")
    remote = write_yaml(tmp_path / "remote.yaml", config)
    done = run_job("ingest", "--config", remote, env={"AWS_ENDPOINT_URL": proxy.url})
    proxy.stop()
    assert done.returncode == 0, done.stderr
    assert all(proxy.counts.values()), proxy.counts
    assert keys(client) == {
        "out/README.md",
        "out/config.yaml",
        "out/duplicates.parquet",
        "out/histograms.png",
        "out/ingest.json",
        "out/manifest.json",
        "out/plan/segment-0000000.parquet",
        "out/plan/settings.json",
        "out/quarantine.parquet",
        "out/bucket=16x32x32/shard-00000.parquet",
    }
    fetched = tmp_path / "fetched"
    for key in keys(client):
        target = fetched / Path(key).relative_to("out")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(client.get_object(Bucket="videos", Key=key)["Body"].read())
    sealed = [name for name in hashes(tmp_path / "out") if name.startswith("bucket=") or name == "manifest.json"]
    assert len(sealed) == 2
    assert {name: hashes(fetched)[name] for name in sealed} == {name: hashes(tmp_path / "out")[name] for name in sealed}

    caplog.clear()
    ingest.main(make_config("s3://videos/in", "s3://videos/out", base))
    assert "nothing to do" in caplog.text
    for output in (done.stdout + done.stderr, caplog.text):
        assert "testing" not in output
