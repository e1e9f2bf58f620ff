"""The stages of the ingest job: what passes between them, and what ends the job with one line."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from animatediff.data import shards
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest import parts
from animatediff.data.ingest.decode_unit import Clip, DecodedUnit
from animatediff.data.ingest.plan import Unit
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from pipelines.settings import IngestConfig
from pipelines.stages.ingest import launch
from pipelines.stages.ingest import worker as stages
from pipelines.stages.ingest.worker import Decode, Encode, EncodeSpec, Score, Stage, Work
from tests.support import mp4
from tests.support_base import build_base
from tests.support_data import plan


class Half(Stage[int, int]):
    """Halves even numbers."""

    takes, gives = "whole", "half"

    def run(self, taken):
        if taken % 2:
            raise UserError(f"{taken} is odd")
        return taken // 2


def mean(frames, caption):
    return {"mean": float(frames.mean()), "words": len(caption.split())}


def motion(frames, caption):
    return {"fps_src": 1.0}


@pytest.fixture
def metrics(monkeypatch):
    told = []
    monkeypatch.setattr(
        stages,
        "IngestMetrics",
        lambda: SimpleNamespace(
            decoded=lambda seconds: None,
            scored=lambda seconds: told.append(("score", seconds)),
            committed=lambda *_: None,
        ),
    )
    threads = torch.get_num_threads()
    yield told
    torch.set_num_threads(threads)


def work_of(*captions):
    videos = [SourceVideo(f"v{number}", f"v{number}.mp4", caption) for number, caption in enumerate(captions)]
    clips = [
        Clip(video, SimpleNamespace(frames=np.full((2, 4, 4, 3), 10 * number, np.uint8), window=0), 1, "sha")
        for number, video in enumerate(videos)
    ]
    return Work(DecodedUnit(Unit(0, "unit", tuple(videos)), clips), {"decode": 1.5})


def score(work, *scorers):
    return Score(SimpleNamespace(scorers=tuple(f"{__name__}:{scorer}" for scorer in scorers))).run(work)


def test_a_stage_takes_a_units_column_and_gives_another():
    assert Half()({"whole": [pickle.dumps(8)], "error": [""]}) == {"half": [pickle.dumps(4, protocol=5)], "error": [""]}


def test_what_a_user_can_mend_passes_all_later_stages_by():
    failed = Half()({"whole": [pickle.dumps(3)], "error": [""]})
    assert failed == {"half": [b""], "error": ["3 is odd"]}
    assert Half()({"whole": failed["half"], "error": failed["error"]}) == failed


def test_each_stage_takes_what_the_one_before_gives():
    assert Decode.gives == Score.takes == Score.gives == Encode.takes


def test_a_unit_becomes_its_part_and_twice_the_same_bytes(metrics, tmp_path):
    """Through all three stages; what was scored is in the part, and who is put aside was not scored."""
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(mp4(20 + number))
    (tmp_path / "2.mp4").write_bytes(b"")
    videos = [SourceVideo(f"v{number}", str(tmp_path / f"{number}.mp4"), "a bar") for number in range(3)]
    (unit,), _ = plan(str(tmp_path / "dataset"), videos)
    spec = EncodeSpec(
        output_uri=str(tmp_path / "dataset"),
        base=str(build_base(tmp_path / "base")),
        dtype="float32",
        encoder_fp="fp",
        clips=ClipConfig(height=32, width=32, stride=1),
        decode=DecodeConfig(),
        scorers=(f"{__name__}:mean",),
        device="cpu",
        trusted=False,
        quarantine_unreachable=False,
    )
    written = []
    for _ in range(2):
        row = {"ref": [pickle.dumps(unit)], "error": [""]}
        for stage in (Decode, Score, Encode):
            row = stage(spec)(row)
        written.append(Path(parts.part_uri(spec.output_uri, unit.unit_id)).read_bytes())
    assert written[0] == written[1]
    result = pickle.loads(row["result"][0])
    assert (result.num_videos, result.num_clips, result.reasons) == (3, 2, {"empty": 1})
    assert list(result.seconds) == ["decode", "score", "encode"]
    scores = [dict(row["scores"]) for row in shards.from_parquet(written[0]).to_pylist()]
    assert [score["words"] for score in scores] == [2, 2]
    assert all(score["mean"] > 0 for score in scores)


@pytest.mark.parametrize(
    ("stage", "device", "needs"),
    [
        (Decode, "cuda", {"CPU": 0.5}),
        (Score, "cuda", {"CPU": 0.5}),
        (Encode, "cuda", {"CPU": 0.5, "GPU": 1}),
        (Encode, "cpu", {"CPU": 0.5}),
    ],
)
def test_only_the_vae_takes_a_device(stage, device, needs):
    assert stage.resources(SimpleNamespace(device=device)) == needs


def test_scorers_give_each_clip_its_scores(metrics):
    scored = score(work_of("a bar", "a wide bar"), "mean")
    assert [clip.own_scores for clip in scored.decoded.clips] == [{"mean": 0.0, "words": 2}, {"mean": 10.0, "words": 3}]
    assert (scored.seconds["decode"], list(scored.seconds)) == (1.5, ["decode", "score"])
    assert metrics == [("score", scored.seconds["score"])]


@pytest.mark.parametrize("scorers", [("mean", "mean"), ("motion",)])
def test_a_score_whose_name_is_taken_is_told(metrics, scorers):
    with pytest.raises(UserError, match=r"returned a score named '(mean|fps_src)', which is taken: rename it"):
        score(work_of("a bar"), *scorers)


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({}, {Decode: 4, Encode: 8}),
        ({"scorers": ("a:b",)}, {Decode: 4, Score: 4, Encode: 8}),
        ({"scorers": ("a:b",), "num_scorers": 7, "num_decoders": 90}, {Decode: 20, Score: 7, Encode: 8}),
    ],
)
def test_scorers_have_a_stage_where_there_are_any(monkeypatch, changes, numbers):
    monkeypatch.setattr(launch, "num_cpus", lambda: 8)
    config = IngestConfig.model_validate({"source": {"uri": "v"}, "output_uri": "o", "base": "b"} | changes)
    found = launch._stages(config, 20, use_gpu=False)
    assert (list(found), found) == (list(numbers), numbers)
