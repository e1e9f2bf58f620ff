"""Episodes to captioned shots, on Ray: exactly once, whatever is killed; and what ingest makes of them."""

import os
import random
import time
from collections import Counter

import pytest

from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.clips.config import ClipConfig
from animatediff.data.curation import caption_parts, inspection
from animatediff.data.curation.manifest import find_manifest
from animatediff.data.curation.selection import SelectConfig
from animatediff.data.curation.shot_table import read_rows
from animatediff.data.inspection.verify import verify
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.sprites.episodes import build_episode, write_episodes
from pipelines import curate, ingest
from pipelines.settings import CurateConfig, IngestConfig
from pipelines.stages.curate import launch
from tests.integration.caption_server import CaptionServer
from tests.integration.conftest import hashes
from tests.integration.processes import Job, below, kill, of_kind
from tests.support import write_yaml

pytestmark = pytest.mark.ray

NUM_EPISODES, NUM_SCENES = 3, 4
DESCRIBED = CaptionConfig(function="animatediff.sprites.episodes:describe", frames=16, side=128)
# What is decided by the episodes alone; the rest tells when and by whom.
SEALED = ("shots/", "manifest.json", "quarantine.parquet")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Three episodes, and two files that are none."""
    folder = tmp_path_factory.mktemp("episodes")
    write_episodes(folder, num_episodes=NUM_EPISODES, num_scenes=NUM_SCENES)
    (folder / "empty.mkv").write_bytes(b"")
    (folder / "page.mp4").write_text("<html>404</html>")
    return folder


def make_config(source, output, **fields):
    return CurateConfig(source=SourceConfig(uri=str(source)), output_uri=str(output), captions=DESCRIBED, **fields)


def rows_of(output):
    manifest = find_manifest(str(output))
    return read_rows(str(output), [shard.path for shard in manifest.shards]).to_pylist()


def sealed(output):
    return {name: digest for name, digest in hashes(output).items() if name.startswith(SEALED)}


def shot_at(truth, row):
    """The episode's shot that a row lies in."""
    middle = row["first"] + row["num_frames"] // 2
    (shot,) = [shot for shot in truth if shot.first <= middle < shot.end][-1:]
    return shot


def check_truth(rows):
    """Each scene of each episode is there once with its caption, the opening once over all, titles never."""
    found = []
    for row in (row for row in rows if row["selected"]):
        truth = build_episode(int(row["video_id"][8:10]) - 1, num_scenes=NUM_SCENES)[1]
        shot = shot_at(truth, row)
        assert row["caption"] == shot.caption
        assert shot.first <= row["first"]
        assert row["first"] + row["num_frames"] <= shot.end
        found.append((shot.kind, row["caption"]))
    return found


def test_the_scenes_of_episodes_become_captioned_clips(cluster, episodes, base, tmp_path, caplog):
    output = tmp_path / "shots"
    manifest = curate.main(make_config(episodes, output))
    assert manifest.quarantined == {"empty": 1, "not_video": 1}
    rows = rows_of(output)
    found = check_truth(rows)
    # A bounce that dissolves on both sides is seen too short to be one, and then has no caption.
    moving = {
        shot.caption
        for index in range(NUM_EPISODES)
        for shot in build_episode(index, num_scenes=NUM_SCENES)[1]
        if shot.scene and shot.scene.motion not in ("still", "bounce")
    }
    assert moving <= {caption for _, caption in found}
    assert len(found) == len(set(found))
    repeats = [row for row in rows if row["reason"] == "repeat"]
    assert {row["video_id"] for row in repeats} == {"episode-02.mkv", "episode-03.mkv"}
    assert all(row["repeats"].startswith("episode-01.mkv@") for row in repeats)
    assert inspection.verify(str(output), manifest).problems == []

    caplog.clear()
    before = hashes(output)
    curate.main(make_config(episodes, output))
    assert "nothing to seal" in caplog.text
    assert sealed(output) == {name: before[name] for name in sealed(output)}

    clips = ClipConfig(num_frames=16, stride=4, height=64, width=64)
    source = SourceConfig(uri=str(output))
    dataset = tmp_path / "dataset"
    latents = ingest.main(IngestConfig(source=source, output_uri=str(dataset), base=base, clips=clips, num_encoders=1))
    assert latents.quarantined == {}
    assert verify(str(dataset)).problems == []
    assert latents.num_videos == manifest.num_selected


def test_another_selection_asks_for_no_caption_again(cluster, episodes, tmp_path, caplog):
    output = tmp_path / "shots"
    few = curate.main(make_config(episodes, output, select=SelectConfig(max_shots_per_video=2)))
    assert few.num_selected == 2 * NUM_EPISODES
    asked = {path.name for path in (output / "captions" / "000").glob("*.parquet")}
    more = curate.main(make_config(episodes, output))
    assert (few.edition, more.edition, more.generation) == (0, 1, 0)
    check_truth(rows_of(output))
    assert f"continuing: {few.num_selected} of {more.num_selected} selected shots are captioned already" in caplog.text
    assert asked < {path.name for path in (output / "captions" / "000").glob("*.parquet")}
    assert {shard.path for shard in more.shards} == {f"shots/{path.name}" for path in (output / "shots").iterdir()}


def run_with_kills(episodes, tmp_path, kinds, seed=0):
    """Kill one process of each kind, in turn, at random times; returns how often the command was run."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    curate.main(make_config(episodes, straight))
    path = write_yaml(tmp_path / "curate.yaml", make_config(episodes, killed).model_dump(mode="json"))
    rng = random.Random(seed)
    with (tmp_path / "log").open("w") as log, Job("curate", path, log) as job:
        for kind in kinds:
            if not job.runs or not job.is_running():
                job.start()
            # What is done has none left to kill: then there is one kill fewer.
            while job.is_running() and not job.of_kind(kind):
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2))
            job.kill_one(kind)
        job.end()
        job.start()
        assert job.code() == 0, (tmp_path / "log").read_text()[-3000:]
    assert sealed(killed) == sealed(straight)
    return job.runs


def test_killed_at_any_time_it_ends_with_the_same_bytes(cluster, episodes, tmp_path):
    run_with_kills(episodes, tmp_path, ("scan child", "copy child", "worker", "driver"))


@pytest.mark.slow
def test_ten_kills(cluster, tmp_path):
    folder = tmp_path / "episodes"
    write_episodes(folder, num_episodes=12, num_scenes=6)
    runs = run_with_kills(folder, tmp_path, ("scan child", "worker", "driver", "worker", "driver") * 2, seed=1)
    print(f"10 kills, {runs} runs of the command")  # noqa: T201


def test_a_served_model_is_asked_once_for_each_committed_shot(cluster, episodes, tmp_path, monkeypatch, caplog):
    """The server turns everybody out in the middle, and later a worker that waits for it is killed."""
    monkeypatch.setattr(launch, "_BATCH_SHOTS", 3)
    output = tmp_path / "shots"
    with CaptionServer(lambda number: 401 if number > 4 else None) as server:
        captions = CaptionConfig(url=server.url, frames=2, side=64, concurrency=1)
        config = make_config(episodes, output).model_copy(update={"captions": captions})
        with pytest.raises(UserError, match=r"captions\.url http://127\.0\.0\.1.*401"):
            curate.main(config)
        committed = set(caption_parts.read(str(output), 0))
        assert len(committed) >= 3
        assert not (output / "manifest.json").exists()

        def kill_once(number):
            if number == 7:
                pids = of_kind(below(os.getpid()), "caption actor", os.getpid())
                assert pids
                kill(pids)

        server.before_answer = kill_once
        manifest = curate.main(config)
        rows = [row for row in rows_of(output) if row["selected"]]
        assert len(rows) == manifest.num_selected == 12
        assert {row["caption"] for row in rows} == set(server.captions.values())
        assert {row["caption_model"] for row in rows} == {"test-model"}
        asked = Counter({caption: server.asked[key] for key, caption in server.captions.items()})
        again = [row["shot_id"] for row in rows if asked[row["caption"]] > 1]
        assert not committed & set(again)
        assert len(again) <= 3  # of the batch whose worker was killed
        before = server.asked.total()
        curate.main(config)
        assert server.asked.total() == before
