"""Damage at rest: what each job says of each kind of file that was changed, cut or lost since it was written.

Nothing damaged is trained on or shown: the job ends in one line that names the file and the remedy, or makes it anew
and says so. The jobs' own code runs; Ray's part is played by the workers' functions, called here.
"""

import logging
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from animatediff.data.ingest import parts
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.seal import write_shard
from animatediff.data.inspection.verify import verify
from animatediff.errors import UserError
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import make_result, write_item
from animatediff.rendering.results.result import Result
from animatediff.sprites import shipped
from animatediff.training.state.checkpoint_files import DamagedCheckpointError
from animatediff.training.trainer import Trainer
from pipelines import animate, ingest, score
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.stages.animate import driver as animate_driver
from pipelines.stages.animate import score_driver
from pipelines.stages.animate.score_worker import _score_row
from pipelines.stages.ingest import driver as ingest_driver
from pipelines.stages.ingest import seal
from pipelines.stages.train import run as train_run
from pipelines.stages.train.checkpoints import repair_checkpoint_index
from tests.support import mp4, write_yaml
from tests.support_data import clip_row

BASE, MOTION = str(shipped.BASE), str(shipped.MOTION_MODULE)
STEPS = ("step-00000002", "step-00000004")


def brightness(result, frames):
    return {"brightness": float(frames.mean())}


class World:
    """The folders that the jobs have left, and the jobs on them without a Ray."""

    def __init__(self, root, monkeypatch):
        self.root, self.rendered = Path(root), []
        for driver in (ingest_driver, score_driver):
            monkeypatch.setattr(driver, "connect", lambda: None)
        monkeypatch.setattr(ingest_driver, "wants_gpus", lambda _: False)
        monkeypatch.setattr(ingest_driver, "run_stages", self._encode)
        monkeypatch.setattr(seal, "_write_shards", lambda uri, plans, own: (write_shard(uri, p, own) for p in plans))
        monkeypatch.setattr(planning, "_UNITS_PER_FILE", 1)
        planning._cached_plan_file.cache_clear()
        monkeypatch.setattr(animate_driver, "render_pending", self._render)
        monkeypatch.setattr(score_driver, "score_results", self._score)

    def build(self):
        source = self.root / "source"
        source.mkdir(parents=True)
        for number in range(3):
            (source / f"v{number}.mp4").write_bytes(mp4(8))
        (source / "all.csv").write_text("video,caption\n" + "".join(f"v{n}.mp4,caption {n}\n" for n in range(3)))
        entries = [{"name": "one"}]
        shared = {
            "base": BASE,
            "motion_module": MOTION,
            "prompts": ["a", "b"],
            "num_frames": 4,
            "width": 64,
            "height": 64,
        }
        write_yaml(self.root / "catalog.yaml", {**shared, "entries": entries})
        self.ingest()
        job = train_run.start_or_resume(self._train_config())
        trainer = Trainer(job.recipe.resolved_config, device=torch.device("cpu"))
        for step, name in zip((2, 4), STEPS, strict=True):
            folder = self.root / "run" / "checkpoints" / name
            folder.mkdir(parents=True)
            trainer.save(folder, step=step)
        repair_checkpoint_index(str(self.root / "run"))  # Ray's list of them is made
        self.animate()
        self.score()

    def ingest(self):
        clips = {"height": 64, "width": 64, "num_frames": 4}
        source = {"uri": str(self.root / "source" / "all.csv")}
        own = {"source": source, "base": BASE, "output_uri": str(self.root / "dataset"), "clips": clips}
        return ingest.main(IngestConfig.model_validate(own | {"clips_per_unit": 1}))

    def _encode(self, config, job, metrics, *, use_gpu):
        for ref in job.pending_units:
            unit = planning.read_unit(job.output_uri, ref)
            rows = [clip_row(video, unit.unit_id, side=64) | self._latent() for video in unit.videos]
            parts.commit(job.output_uri, unit.unit_id, rows, [])

    @staticmethod
    def _latent():
        return {"bucket": "4x64x64", "latent": bytes(2 * 4 * 8 * 8 * 8), "latent_shape": [4, 8, 8, 8], "window": 0}

    def _train_config(self):
        own = {"run_name": "r", "dataset_uri": str(self.root / "dataset"), "base": BASE}
        own |= {"recipe": "finetune", "model": {"motion_module": MOTION}, "output_uri": str(self.root / "run")}
        return TrainJobConfig.model_validate(own | {"train": {"batch_size": 1, "num_steps": 6}})

    def train(self):
        """Its checks, the newest whole checkpoint, and an epoch of clips; returns the steps that it goes on from."""
        job, known = train_run.start_or_resume(self._train_config()), []
        trainer = Trainer(job.recipe.resolved_config, device=torch.device("cpu"))
        while True:
            repair_checkpoint_index(str(self.root / "run"), known)
            names = [
                name for name in STEPS if name not in known and (self.root / "run" / "checkpoints" / name).exists()
            ]
            try:
                start = trainer.load(self.root / "run" / "checkpoints" / names[-1])
                break
            except DamagedCheckpointError:
                known.append(names[-1])
        for index in range(3):
            assert trainer.loader.load(index).latents.count_nonzero() == 0  # as they were written
        return start

    def animate(self):
        self.rendered.clear()
        own = {"catalog_uri": str(self.root / "catalog.yaml"), "output_uri": str(self.root / "clips")}
        return animate.main(AnimateConfig.model_validate(own | {"formats": ["mp4"]}))

    def _render(self, config, plan, pending, ledger):
        ledger.delete_results(item.digest for item in pending)
        for item in pending:
            path = self.root / "clips" / "clips" / f"{item.digest[:16]}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mp4(4, height=64, width=64))
            found = {"files": {"mp4": f"clips/{path.name}"}, "num_bytes": {"mp4": path.stat().st_size}}
            done = make_result(item, status="ok", **found)
            write_item(config.output_uri, done.model_copy(update={"sha256": {"mp4": clip_files._sha256(str(path))}}))
            ledger.note_outcome(item.digest, "")
            self.rendered.append(item.digest)

    def score(self):
        scorer = f"{__name__}:brightness"
        return score.main(ScoreConfig(output_uri=str(self.root / "clips"), scorer=scorer, again=True))

    def _score(self, results, output_uri, scorer):
        for result in results:
            row = _score_row({"result": result.model_dump_json()}, output_uri=output_uri, scorer=scorer)
            yield Result.model_validate_json(row["result"])

    def verify(self):
        report = verify(str(self.root / "dataset"))
        if report.problems:
            raise UserError(f"wrong: {report.problems[0]}")

    def file(self, kind):
        """The file of a kind that is damaged."""
        name, index = FILES[kind]
        return sorted(self.root.glob(name))[index]

    def run(self, job, caplog):
        """The exit code, and the lines that tell of it."""
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            try:
                getattr(self, job)()
            except UserError as error:
                return error.exit_code, [record.message for record in caplog.records] + [str(error)]
        return 0, [record.message for record in caplog.records]


FILES = {
    "shard": ("dataset/bucket=*/*.parquet", 0),
    "checkpoint": (f"run/checkpoints/{STEPS[-1]}/training_state.pt", 0),
    "clip": ("clips/clips/*.mp4", 0),
    "manifest": ("dataset/manifest.json", 0),
    "ledger item": ("clips/items/*.json", 0),
    "ledger table": ("clips/results.parquet", 0),
    "first plan segment": ("dataset/plan/*.parquet", 0),
    "last plan segment": ("dataset/plan/*.parquet", -1),
    "plan settings": ("dataset/plan/settings.json", 0),
    "quarantine": ("dataset/quarantine.parquet", 0),
}
"""Each with the place of the file among those of its kind."""


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": Path.unlink,
}

RESTORE = "restore it"
AGAIN = "clips that are gone or damaged are rendered again: 1, first clips/"
RERUN = "cannot be scored, .*run the animate job again"
LEFT_OUT = f"checkpoint .*{STEPS[-1]} is damaged and left out: "
PIECE = "piece of the dataset's plan"
TABLE = "results.parquet is damaged .* does not count"
# By file: what each job says of the three damages, flipped, cut and gone; None of what it neither reads nor needs.
SAYS: dict[str, dict[str, tuple[str | None, ...]]] = {
    "shard": {
        "ingest": (None, f"it has .* bytes and not .*{RESTORE}", f"is missing: {RESTORE}"),
        "train": (f"it is damaged: .*{RESTORE}", f"it has .* bytes and not .*{RESTORE}", f"is missing: {RESTORE}"),
        "verify": ("has other bytes", "has other bytes", "is missing"),
    },
    "checkpoint": {
        "train": (f"{LEFT_OUT}its bytes differ", rf"{LEFT_OUT}training_state.pt has", rf"{LEFT_OUT}.* is missing"),
    },
    "clip": {"animate": (AGAIN, AGAIN, AGAIN), "score": (RERUN, RERUN, RERUN)},
    "manifest": {
        "ingest": (f"was changed or damaged .*{RESTORE}", f"is no JSON: {RESTORE}", f"was sealed, .*: {RESTORE}"),
        "train": (f"was changed or damaged .*{RESTORE}", f"is no JSON: {RESTORE}", "manifest.json is missing"),
        "verify": (f"was changed or damaged .*{RESTORE}", f"is no JSON: {RESTORE}", "manifest.json is missing"),
    },
    "ledger item": {
        "animate": ("it is rendered again", "is no JSON: it is rendered again", None),
        "score": (RERUN, RERUN, RERUN),
    },
    "ledger table": {
        "animate": (TABLE, TABLE, None),
        "score": ("run the animate job again", "run the animate job again", "there is no .*results.parquet: render"),
    },
    "first plan segment": {
        "ingest": (f"{PIECE}: {RESTORE}", f"{PIECE}: {RESTORE}", "has a gap before .*: restore the missing segment"),
        "verify": (f"{PIECE}: {RESTORE}", f"{PIECE}: {RESTORE}", "stand in no plan"),
    },
    "last plan segment": {
        "ingest": (
            f"{PIECE}: {RESTORE}",
            f"{PIECE}: {RESTORE}",
            "has fewer units than its manifest: restore its plan/",
        ),
        "verify": (f"{PIECE}: {RESTORE}", f"{PIECE}: {RESTORE}", "stand in no plan"),
    },
    "plan settings": {
        "ingest": ("damaged: restore it|other settings", f"is damaged: {RESTORE}", "is missing: restore")
    },
    "quarantine": {
        "ingest": (f"it is damaged: .*{RESTORE}", f"it is damaged: .*{RESTORE}", "there is no .*quarantine.parquet"),
        "verify": (f"it is damaged: .*{RESTORE}", f"it is damaged: .*{RESTORE}", "there is no .*quarantine.parquet"),
    },
}
MADE_ANEW = {("checkpoint", "train"), ("clip", "animate"), ("ledger item", "animate"), ("ledger table", "animate")}
CELLS = [(kind, damage, job) for kind in FILES for job in SAYS[kind] for damage in DAMAGES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        World(root / "world", monkeypatch).build()
    shutil.copytree(root / "world", root / "kept")
    return root


@pytest.fixture
def world(whole, monkeypatch):
    # In its own place, since a dataset knows where its source lies; with its times, since they tell what is newer.
    yield World(whole / "world", monkeypatch)
    shutil.rmtree(whole / "world")
    shutil.copytree(whole / "kept", whole / "world")


@pytest.mark.parametrize(("kind", "damage", "job"), CELLS)
def test_what_a_job_says(world, kind, damage, job, caplog):
    path = world.file(kind)
    content, says = path.read_bytes(), SAYS[kind][job][list(DAMAGES).index(damage)]
    DAMAGES[damage](path)
    code, lines = world.run(job, caplog)
    assert code == (0 if says is None or (kind, job) in MADE_ANEW else 1) or "other settings" in lines[-1], lines
    if says is None:
        assert not lines
    else:
        assert any(re.search(says, line) for line in lines), lines
        assert all("\n" not in line for line in lines)
    if job == "animate":
        # What is shown is whole: the damaged clip or the one of a damaged item is made anew, and no other.
        assert len(world.rendered) == (kind != "ledger table")
        assert world.animate()["ok"] == 2
        assert not world.rendered
        assert kind != "clip" or path.read_bytes() == content
    if job == "score" and kind != "ledger table":
        rows = pq.read_table(world.root / "clips" / "results.parquet").to_pylist()
        assert sorted((row["status"], len(row["files"]), len(row["scores"])) for row in rows) == [
            ("failed", 0, 0),
            ("ok", 1, 1),
        ]
    if job == "train" and kind == "checkpoint":
        assert f"training goes on from checkpoint {STEPS[0]}" in lines


def test_what_is_whole_gives_no_word(world, caplog):
    for job in ("ingest", "train", "animate", "score", "verify"):
        assert world.run(job, caplog) == (0, [])
    assert not world.rendered
