"""The stages of the ingest job: what passes between them, and what ends the job with one line."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from animatediff.data.ingest.decode_unit import DecodedUnit, IngestClip
from animatediff.data.ingest.plan import Unit
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from pipelines.cluster.stage import Stage
from pipelines.settings import IngestConfig
from pipelines.stages.ingest import launch
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from pipelines.stages.ingest.score import Score
from pipelines.stages.ingest.stage import DecodedWork


class Half(Stage[int, int]):
    """Halves even numbers."""

    input_column, output_column = "whole", "half"

    def process(self, work):
        if work % 2:
            raise UserError(f"{work} is odd")
        return work // 2


def mean(frames, caption):
    return {"mean": float(frames.mean()), "words": len(caption.split())}


def motion(frames, caption):
    return {"fps_src": 1.0}


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def work_of(*captions):
    videos = [SourceVideo(f"v{number}", f"v{number}.mp4", caption) for number, caption in enumerate(captions)]
    clips = [
        IngestClip(video, SimpleNamespace(frames=np.full((2, 4, 4, 3), 10 * number, np.uint8), index=0), 1, "sha")
        for number, video in enumerate(videos)
    ]
    return DecodedWork(DecodedUnit(Unit(0, "unit", tuple(videos)), clips), {"decode": 1.5})


def score(work, *scorers):
    return Score(SimpleNamespace(scorers=tuple(f"{__name__}:{scorer}" for scorer in scorers))).process(work)


def inverted(frames, caption):
    frames[:] = 255 - frames
    return {"inverted": float(frames.mean())}


def test_what_a_scorer_does_to_its_frames_stays_with_it():
    work = work_of("a", "b")
    before = [clip.decoded_clip.frames.copy() for clip in work.decoded_unit.clips]
    done = score(work, "inverted", "mean")
    for clip, frames in zip(done.decoded_unit.clips, before, strict=True):
        assert (clip.decoded_clip.frames == frames).all()
        assert clip.user_scores["mean"] == frames.mean()
        assert clip.user_scores["inverted"] == 255 - frames.mean()


def test_a_stage_takes_a_units_column_and_gives_another():
    assert Half()({"whole": [pickle.dumps(8)], "error": [""]}) == {"half": [pickle.dumps(4, protocol=5)], "error": [""]}


def test_what_a_user_can_mend_passes_all_later_stages_by():
    failed = Half()({"whole": [pickle.dumps(3)], "error": [""]})
    assert failed == {"half": [b""], "error": ["3 is odd"]}
    assert Half()({"whole": failed["half"], "error": failed["error"]}) == failed


def test_each_stage_takes_what_the_one_before_gives():
    assert Decode.output_column == Score.input_column == Score.output_column == Encode.input_column


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
    assert stage.resources(device) == needs


def test_scorers_give_each_clip_its_scores():
    scored = score(work_of("a bar", "a wide bar"), "mean")
    assert [clip.user_scores for clip in scored.decoded_unit.clips] == [
        {"mean": 0.0, "words": 2},
        {"mean": 10.0, "words": 3},
    ]
    assert (scored.seconds["decode"], list(scored.seconds)) == (1.5, ["decode", "score"])


@pytest.mark.parametrize("scorers", [("mean", "mean"), ("motion",)])
def test_a_score_whose_name_is_taken_is_told(scorers):
    with pytest.raises(UserError, match=r"returned a score named '(mean|fps_src)', which is taken: rename it"):
        score(work_of("a bar"), *scorers)


@pytest.mark.parametrize(("cpus", "decoders", "encoders", "scorers"), [(2, 3, 1, None), (8, 14, 2, None), (1, 1, 1, 3)])
def test_scorers_never_take_the_place_of_decoders_and_encoders(monkeypatch, cpus, decoders, encoders, scorers):
    monkeypatch.setattr(launch, "num_cpus", lambda: cpus)
    numbers = {"num_decoders": decoders, "num_encoders": encoders, "num_scorers": scorers, "scorers": ("a:b",)}
    config = IngestConfig.model_validate({"source": {"uri": "v"}, "output_uri": "o", "base": "b"} | numbers)
    pools = launch._pools(config, SimpleNamespace(device="cpu"), 20, use_gpu=False)
    assert pools[Score].number == (scorers or 1)
    assert sum(pool.number * pool.needs["CPU"] for pool in pools.values()) <= cpus
    assert pools[Encode].needs["CPU"] == Encode.cpus


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
    pools = launch._pools(config, SimpleNamespace(device="cpu"), 20, use_gpu=False)
    assert [(stage, pool.number) for stage, pool in pools.items()] == list(numbers.items())
