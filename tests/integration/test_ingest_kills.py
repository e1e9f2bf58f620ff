"""`kill -9` of anything at any time, then the same command again: the same bytes in the end."""

import random
import time

import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.inspection.verify import verify
from animatediff.data.sources.spec import SourceConfig
from animatediff.sprites.videos import break_videos, write_videos
from pipelines import ingest
from pipelines.settings import IngestConfig
from tests.integration.conftest import hashes
from tests.integration.processes import Job
from tests.support import write_yaml

pytestmark = pytest.mark.ray
KINDS = ("decode child", "driver", "vae actor", "worker")
CLIPS = ClipConfig(height=32, width=32, stride=1, windows_per_video=2, windows="random")


def make_config(csv, output, base):
    source = SourceConfig(uri=str(csv))
    # One encoder, which takes seconds to start.
    return IngestConfig(source=source, output_uri=str(output), base=base, clips=CLIPS, clips_per_unit=8, num_encoders=1)


def make_videos(folder, num):
    csv = write_videos(folder, num_videos=num, height=64, width=64, num_frames=24)
    break_videos(folder)
    return csv


def kill_while_it_runs(job, output, num_kills, rng, deadline_s):
    """Kill `num_kills` processes, the kinds in turn, at random times after the first part is there.

    Decoding children are killed from the start: on a fast machine they are through before the first part is written.
    """
    done, deadline = [], time.monotonic() + deadline_s
    job.start()
    while len(done) < num_kills:
        assert time.monotonic() < deadline, done
        if not job.is_running():
            assert not (output / "manifest.json").exists(), f"it was done after {done}: more videos are needed"
            job.start()
        kind = KINDS[len(done) % len(KINDS)]
        may_be_killed = kind == "decode child" or list((output / "parts").glob("*.parquet"))
        if may_be_killed and job.of_kind(kind):
            time.sleep(rng.uniform(0, 0.3))
            if job.kill_one(kind):
                done.append(kind)
        time.sleep(0.02)
    job.end()


def run_with_kills(base, tmp_path, *, num_videos, num_kills, deadline_s):
    csv = make_videos(tmp_path / "source", num_videos)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    manifest = ingest.main(make_config(csv, straight, base))
    path = write_yaml(tmp_path / "ingest.yaml", make_config(csv, killed, base).model_dump(mode="json"))
    with (tmp_path / "log").open("w") as log, Job("ingest", path, log) as job:
        kill_while_it_runs(job, killed, num_kills, random.Random(0), deadline_s)
        job.start()
        assert job.code() == 0, (tmp_path / "log").read_text()[-3000:]
    assert verify(str(killed)).problems == []
    assert hashes(killed) == hashes(straight)
    assert manifest.quarantined == {"empty": 1, "truncated": 1, "not_video": 1}
    return job.runs


def test_each_kind_of_process_killed_once(cluster, base, tmp_path):
    run_with_kills(base, tmp_path, num_videos=100, num_kills=4, deadline_s=900)


@pytest.mark.slow
def test_twenty_five_kills_in_four_hundred_videos(cluster, base, tmp_path):
    runs = run_with_kills(base, tmp_path, num_videos=400, num_kills=25, deadline_s=1800)
    print(f"25 kills, {runs} runs of the command")  # noqa: T201
