"""SIGTERM at random moments of each job, then the same command again: nothing lost, the same bytes in the end."""

import random
import shutil
import time

import pytest

from animatediff import storage
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.clips.config import ClipConfig
from animatediff.data.curation import caption_parts
from animatediff.data.sources.spec import SourceConfig
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.results.ledger import read_results
from animatediff.sprites.episodes import write_episodes
from animatediff.sprites.videos import write_videos
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from tests.integration.caption_server import CaptionServer
from tests.integration.conftest import hashes
from tests.integration.sigterm import RAY_STARTS, START, WORKERS_START, Moment, stop, table
from tests.integration.test_curate import sealed
from tests.support import write_yaml
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = pytest.mark.ray
NUM_ITEMS = 16
TIMEOUT_S = 900  # beside other work
AT_ONCE_S = 0.1  # table and gallery are written within half a second


class Job:
    """One of the jobs, small: its input, its config, moments of its own, and what must be the same in the end."""

    def note(self, output):
        """Look at what is kept after a stop."""

    def close(self):
        """End what was begun in `prepare`."""


class Curate(Job):
    def prepare(self, folder, base, run_job):
        self.episodes = folder / "episodes"
        write_episodes(self.episodes, num_episodes=3, num_scenes=14)
        self.server = CaptionServer(lambda number: time.sleep(0.1))  # a batch of 32 shots takes a while
        self.server.__enter__()
        self.asked = []

    def close(self):
        self.server.__exit__()

    def config(self, output):
        captions = CaptionConfig(url=self.server.url, frames=2, side=64, concurrency=1)
        return CurateConfig(source=SourceConfig(uri=str(self.episodes)), output_uri=str(output), captions=captions)

    def moments(self, output):
        return (
            Moment("captioning", lambda processes, log: any((output / "captions").rglob("*.parquet")), 0.7),
            Moment("sealing", lambda processes, log: len([*(output / "captions").rglob("*.parquet")]) == 2, AT_ONCE_S),
        )

    def note(self, output):
        committed = {answer.caption for answer in caption_parts.read(str(output), 0).values()}
        keys = [key for key, caption in self.server.captions.items() if caption in committed]
        self.asked.append({key: self.server.asked[key] for key in keys})

    def result(self, output):
        assert any(self.asked) or "stopped" not in output.name
        for asked in self.asked:
            assert asked == {key: self.server.asked[key] for key in asked}
        return sealed(output)


class Ingest(Job):
    def prepare(self, folder, base, run_job):
        self.csv = write_videos(folder / "source", num_videos=200, height=64, width=64, num_frames=24)
        self.base = base

    def config(self, output):
        clips = ClipConfig(height=32, width=32, stride=1, windows_per_video=2, windows="random")
        source = SourceConfig(uri=str(self.csv))
        return IngestConfig(source=source, output_uri=str(output), base=self.base, clips=clips, clips_per_unit=8)

    def moments(self, output):
        parts = output / "parts"
        return (
            Moment("encoding", lambda processes, log: any(parts.glob("*.parquet")), 0.7),
            Moment("sealing", lambda processes, log: len([*parts.glob("*.parquet")]) >= 50, 0.7),
        )

    def result(self, output):
        return hashes(output)


class Train(Job):
    def prepare(self, folder, base, run_job):
        self.folder, self.base = folder, base
        write_dataset(folder / "dataset", shards=(9, 8), shapes=((4, 4, 16, 16),))

    def config(self, output):
        return TrainJobConfig(
            run_name="run",
            dataset_uri=str(self.folder / "dataset"),
            base=self.base,
            output_uri=str(output),
            train={"num_steps": 24, "batch_size": 4, "log_every": 1, "checkpoint_every": 8},
            scaling={"num_workers": 1, "cpus_per_worker": 1},
            sample={"num_inference_steps": 2},
        )

    def moments(self, output):
        return (
            Moment("training", lambda processes, log: any((output / "checkpoints").glob("step-*/state.json")), 2),
            Moment("sampling", lambda processes, log: (output / "motion_module.safetensors").exists(), 2),
        )

    def result(self, output):
        return {"weights": (output / "motion_module.safetensors").read_bytes()}


class Animate(Job):
    def prepare(self, folder, base, run_job):
        motion = MotionModules.for_base(load_unet(base), MotionConfig())
        motion_modules.write(str(folder / "motion.safetensors"), motion)
        content = {
            "base": base,
            "motion_module": str(folder / "motion.safetensors"),
            **{"width": 64, "height": 64, "num_inference_steps": 12},
            "prompts": [f"a red circle, number {i}" for i in range(NUM_ITEMS)],
            "entries": [{"name": "bare"}],
        }
        self.catalog = write_yaml(folder / "catalog.yaml", content)

    def config(self, output):
        return AnimateConfig(catalog_uri=self.catalog, output_uri=str(output), num_actors=2)

    def moments(self, output):
        items = output / "items"
        return (
            Moment("rendering", lambda processes, log: any(items.glob("*.json")), 1.5),
            Moment("reporting", lambda processes, log: len([*items.glob("*.json")]) == NUM_ITEMS, AT_ONCE_S),
        )

    def result(self, output):
        storage.delete_drafts(str(output))  # of workers that were ended as they wrote; a job waits an hour with it
        rows = [result.model_dump(exclude={"seconds", "attempts"}) for result in read_results(str(output))]
        return {"rows": rows} | hashes(output / "clips")


class Score(Animate):
    def prepare(self, folder, base, run_job):
        super().prepare(folder, base, run_job)
        self.rendered = folder / "rendered"
        config = write_yaml(folder / "rendered.yaml", super().config(self.rendered).model_dump(mode="json"))
        ended = run_job("animate", "--config", config, timeout=TIMEOUT_S)
        assert ended.returncode == 0, ended.stderr

    def config(self, output):
        shutil.copytree(self.rendered, output)
        return ScoreConfig(output_uri=str(output), scorer="tests.integration.test_sigterm:brightness")

    def moments(self, output):
        def num_scored():
            return sum(b"brightness" in path.read_bytes() for path in (output / "items").glob("*.json"))

        return (
            Moment("scoring", lambda processes, log: num_scored() > 0, 0.7),
            Moment("reporting", lambda processes, log: num_scored() == NUM_ITEMS, AT_ONCE_S),
        )


def brightness(result, frames):
    """A scorer that takes a while."""
    time.sleep(0.5)
    return {"brightness": frames.mean()}


JOBS = {"curate": Curate, "ingest": Ingest, "train": Train, "animate": Animate, "score": Score}


@pytest.mark.slow
@pytest.mark.parametrize("whole_pod", [False, True], ids=["driver", "pod"])
@pytest.mark.parametrize("name", JOBS)
def test_five_moments(name, whole_pod, base, run_job, tmp_path, monkeypatch, request):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    job, rng = JOBS[name](), random.Random(f"{name} {whole_pod}")
    job.prepare(tmp_path, base, run_job)
    request.addfinalizer(job.close)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    paths = {
        output: write_yaml(tmp_path / f"{output.name}.yaml", job.config(output).model_dump(mode="json"))
        for output in (straight, stopped)
    }
    undisturbed = run_job(name, "--config", paths[straight], timeout=TIMEOUT_S)
    assert undisturbed.returncode == 0, undisturbed.stderr
    stops = []
    for number, moment in enumerate([START, RAY_STARTS, WORKERS_START, *job.moments(stopped)]):
        stops.append(stop(name, paths[stopped], tmp_path / f"{number}.log", moment, rng, whole_pod=whole_pod))
        print(f"{name} {table(stops[-1:])}", flush=True)  # noqa: T201
        job.note(stopped)
    again = run_job(name, "--config", paths[stopped], timeout=TIMEOUT_S)
    assert again.returncode == 0, again.stderr
    assert job.result(stopped) == job.result(straight)
    last_word = undisturbed.stderr.splitlines()[-1].partition(" ")[2].replace(str(straight), str(stopped))
    for stop_ in stops:
        assert stop_.left == [], table(stops)
        assert stop_.seconds < 25
        if stop_.line.endswith(last_word):  # it was done, and only closed what it had opened
            assert stop_.code == 0, table(stops)
        else:
            assert stop_.code == 143, table(stops)
            # Before it takes the signals over, Python itself ends, without a word.
            assert "stopped by SIGTERM; " in stop_.line or (stop_.moment, stop_.line) == (START.name, ""), table(stops)


def test_a_training_saves_before_it_ends(base, run_job, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    job, output, log = Train(), tmp_path / "run", tmp_path / "log"
    job.prepare(tmp_path, base, run_job)
    rare = {"num_steps": 10_000, "batch_size": 4, "log_every": 1, "checkpoint_every": 10_000}
    config = TrainJobConfig.model_validate(job.config(output).model_dump() | {"train": rare})
    path = write_yaml(tmp_path / "train.yaml", config.model_dump(mode="json"))
    training = Moment("training", lambda processes, log: " steps/s" in log, 1)
    stopped = stop("train", path, log, training, random.Random(0), whole_pod=False)
    assert (stopped.code, stopped.left) == (143, []), log.read_text()
    (saved,) = list((output / "checkpoints").glob("step-*/state.json")) or [pytest.fail(log.read_text())]
    assert f"saved before the end: checkpoint {saved.parent.name}\n" in log.read_text()
    command = f"python pipelines/train.py --config {path}"
    assert stopped.line.endswith(f"what is done is kept in {output}; to go on, run the same command again: {command}")
    assert not (output / "motion_module.safetensors").exists()
