import csv
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import s3fs

from animatediff.data import shards
from animatediff.data.clips.config import ClipConfig
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.manifest import read_manifest
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UsageError, UserError
from pipelines import ingest
from pipelines.settings import IngestConfig
from pipelines.stages.ingest import driver as ingest_driver
from tests.integration.conftest import hashes
from tests.integration.scraping import exported
from tests.support import mp4, write_yaml

pytestmark = pytest.mark.ray
CLIPS = ClipConfig(height=32, width=32)


def make_config(source, output, base, **changes):
    return IngestConfig(
        source=SourceConfig(uri=str(source)),
        output_uri=str(output),
        base=base,
        **{"clips": CLIPS, "clips_per_unit": 2, "max_outage_s": 0, "num_encoders": 1} | changes,
    )


def test_every_video_has_its_clips_or_a_reason_and_a_rerun_does_nothing(
    cluster, sprites, base, tmp_path, caplog, monkeypatch
):
    source, broken = sprites
    scorers = ("tests.integration.scorers:redness",)
    strict = make_config(source, tmp_path / "dataset", base, max_quarantine_rate=0.1, scorers=scorers, num_scorers=1)
    with pytest.raises(UserError, match=r"25% of the videos.*max_quarantine_rate 10%"):  # all is written, all the same
        ingest.main(strict)
    manifest = read_manifest(strict.output_uri)
    assert manifest.num_clips == 9

    rows = shards.from_parquet((tmp_path / "dataset" / manifest.shards[0].path).read_bytes()).to_pylist()
    with Path(source).open() as file:
        planned = {row["videoid"]: row["name"] for row in csv.DictReader(file)}
    assert {row["video_id"]: row["caption"] for row in rows} == {k: v for k, v in planned.items() if k not in broken}
    assert all(row["latent_shape"] == [16, 4, 4, 4] and row["motion"] >= 0 for row in rows)
    assert all(dict(row["scores"])["caption_length"] == len(row["caption"]) for row in rows)

    reasons = {row["video_id"]: row["reason"] for row in read_quarantine(strict.output_uri).to_pylist()}
    expected = {"empty": "empty", "truncated": "truncated", "text": "not_video"}
    assert reasons == {video: expected[kind] for video, kind in broken.items()}

    told = exported(tmp_path / "dataset")
    stages = {told.pop(("ingest_stage_seconds_total", stage)) for stage in ("decode", "score", "encode")}
    assert all(0 < seconds < 600 for seconds in stages)
    assert {series: value for series, value in told.items() if series[0].endswith("_total")} == {
        ("ingest_videos_total",): 12,
        ("ingest_clips_total",): 9,
        **{("ingest_quarantined_videos_total", reason): 1 for reason in expected.values()},
        ("job_ends_total", "failed"): 1,
    }

    before = hashes(tmp_path / "dataset")
    monkeypatch.setattr(
        ingest_driver, "run_stages", lambda *_, **__: pytest.fail("a finished dataset was encoded again")
    )
    assert ingest.main(make_config(source, tmp_path / "dataset", base, scorers=scorers)) == manifest
    assert "nothing to do" in caplog.text
    assert hashes(tmp_path / "dataset") == before

    changed = CLIPS.model_copy(update={"stride": 2})
    with pytest.raises(UsageError, match=r"clips.stride: 4 -> 2.*choose another output_uri"):
        ingest.main(make_config(source, tmp_path / "dataset", base, clips=changed, scorers=scorers))


def test_an_outage_rejects_nothing_the_rerun_goes_on_and_videos_added_later_are_all_that_is_encoded(
    workers_here, base, tmp_path
):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos.csv").write_text("videoid,name\n1,a bar\n2,another bar\n")
    unreadable = [tmp_path / "videos" / f"{i}.mp4" for i in (1, 2)]
    for path in unreadable:
        path.mkdir()  # there, but every read fails
    config = make_config(tmp_path / "videos.csv", tmp_path / "dataset", base)
    with pytest.raises(UserError, match="no video of unit .* can be fetched, nor others .*, is the storage down"):
        ingest.main(config)
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    for path in unreadable:
        path.rmdir()
        path.write_bytes(mp4(64))
    first = ingest.main(config)
    assert (first.num_clips, first.quarantined) == (2, {})

    for i in (3, 4):
        (tmp_path / "videos" / f"{i}.mp4").write_bytes(mp4(64))
    with (tmp_path / "videos.csv").open("a") as file:
        file.write("3,a third bar\n4,\n")
    second = ingest.main(config)
    assert second.shards[:1] == first.shards
    assert [shard.num_clips for shard in second.shards] == [2, 1]
    assert second.quarantined == {"no_caption": 1}


def test_a_list_sorted_by_a_dead_host_comes_to_its_end(workers_here, base, tmp_path):
    good = [tmp_path / f"{i}.mp4" for i in range(3)]
    for path in good:
        path.write_bytes(mp4(64))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    alive = f"http://127.0.0.1:{server.server_port}"
    urls = [f"http://127.0.0.1:9/{i}.mp4" for i in range(3)] + [f"{alive}/{path.name}" for path in good]
    rows = "".join(f"{url},a bar\n" for url in urls)
    (tmp_path / "videos.csv").write_text(f"video,caption\n{rows}")
    config = make_config(tmp_path / "videos.csv", tmp_path / "dataset", base, clips_per_unit=1)
    config = config.model_copy(update={"max_quarantine_rate": 1.0})
    try:
        manifest = ingest.main(config)
        assert (manifest.num_clips, manifest.quarantined) == (3, {"fetch_error": 3})
    finally:
        server.shutdown()
        server.server_close()  # else the kernel still takes connections
    # A whole storage is away: nothing is put aside unless it is asked for.
    (tmp_path / "videos.csv").write_text(f"video,caption\n{rows}{alive}/late.mp4,a bar\n")
    with pytest.raises(UserError, match="quarantine_unreachable puts its videos aside"):
        ingest.main(config)
    manifest = ingest.main(config.model_copy(update={"quarantine_unreachable": True}))
    assert (manifest.num_clips, manifest.quarantined) == (3, {"fetch_error": 4})


def test_unreachable_bucket_and_base_without_vae_are_one_line(base, sprites, tmp_path, run_job, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # fsspec keeps file systems with the addresses they were made with.
    s3fs.S3FileSystem.clear_instance_cache()
    config = make_config("s3://nobody/in", tmp_path / "x", base)
    with pytest.raises(UserError, match="cannot reach s3://nobody/in") as unreachable:
        ingest.main(config)
    s3fs.S3FileSystem.clear_instance_cache()

    crippled = tmp_path / "base"
    crippled.mkdir()
    for part in Path(base).iterdir():
        if part.name != "vae":
            (crippled / part.name).symlink_to(part)
    with pytest.raises(UserError, match=f"base {crippled} has no vae") as refusal:
        ingest.main(make_config(sprites[0], tmp_path / "x", str(crippled)))
    for refused in (unreachable, refusal):
        assert "\n" not in str(refused.value)

    # Of the command itself the code and the last line.
    wrong = write_yaml(tmp_path / "c.yaml", config.model_dump(mode="json") | {"out_uri": "x"})
    typo = run_job("ingest", "--config", wrong)
    assert typo.returncode == 2
    assert "unknown field 'out_uri', did you mean 'output_uri'?" in typo.stderr.splitlines()[-1]
    assert "Traceback" not in typo.stderr
