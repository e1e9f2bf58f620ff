"""The stages of the ingest job one after the other, without Ray: a unit of videos becomes its part."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from animatediff.data import shards
from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest import parts
from animatediff.data.shots.copies.fetching import fetch_video
from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig, SourceVideo
from animatediff.weights.base import load_vae
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from pipelines.stages.ingest.score import Score
from pipelines.stages.ingest.stage import IngestSpec
from tests.support import gradient_frames, mp4
from tests.support_base import build_base
from tests.support_collections import shot_row, write_collection
from tests.support_data import plan
from tests.support_videos import encode_frames


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def brightness(frames, caption):
    return {"mean": float(frames.mean()), "words": len(caption.split())}


def make_spec(folder, base, **changes):
    fields = {
        "output_uri": str(folder / "dataset"),
        "base": str(base),
        "dtype": "float32",
        "vae_fingerprint": "fp",
        "clips": ClipConfig(height=32, width=32, stride=1),
        "decode": DecodeConfig(),
        "scorers": (),
        "device": "cpu",
        "trusted": False,
        "quarantine_unreachable": False,
        "max_outage_s": 0,
    }
    return IngestSpec(**fields | changes)


def test_a_unit_becomes_its_part_and_twice_the_same_bytes(tmp_path):
    """What was scored is in the part; who was put aside is there with the reason."""
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(mp4(20 + number))
    (tmp_path / "2.mp4").write_bytes(b"")
    videos = [SourceVideo(f"v{number}", str(tmp_path / f"{number}.mp4"), "a bar") for number in range(3)]
    (unit,), _ = plan(str(tmp_path / "dataset"), videos)
    spec = make_spec(tmp_path, build_base(tmp_path / "base"), scorers=(f"{__name__}:brightness",))
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
    # 64 x 96 pixels, of which the left 8 columns are cropped after they have been halved.
    sizes = [[row[name] for name in SourceCrop._fields] for row in shards.from_parquet(written[0]).to_pylist()]
    assert sizes == [[64, 96, 0, 8]] * 2
    scores = [dict(row["scores"]) for row in shards.from_parquet(written[0]).to_pylist()]
    assert [found["words"] for found in scores] == [2, 2]
    assert all(found["mean"] > 0 for found in scores)


@pytest.mark.parametrize("store", ["copy", "reference"])
def test_the_latents_of_shots_are_those_of_the_same_times_of_the_source(tmp_path, store):
    """A shot without its bars, in the middle of a GOP, against a file that holds nothing else."""
    frames = gradient_frames(60)
    barred = np.zeros((60, 80, 96, 3), np.uint8)
    barred[:, 8:72] = frames
    lossless = {"codec": "libx264", "container": "matroska", "pix_fmt": "yuv444p", "options": {"qp": "0", "g": "25"}}
    (tmp_path / "film.mkv").write_bytes(encode_frames(barred, **lossless))
    (tmp_path / "alone.mkv").write_bytes(encode_frames(frames[33:55], **lossless))
    shot = shot_row(tmp_path / "film.mkv", 33, 54, crop=(0, 8, 96, 64), caption="a bar, red", tags=["bar", "red"])
    write_collection(tmp_path / "shots", [shot], store=store)
    (of_shot,) = next(read_source(SourceConfig(uri=str(tmp_path / "shots"))))
    alone = SourceVideo("alone", str(tmp_path / "alone.mkv"), "a bar")
    (unit,), _ = plan(str(tmp_path / "dataset"), [of_shot, alone])
    row = {"ref": [pickle.dumps(unit)], "error": [""]}
    spec = make_spec(tmp_path, build_base(tmp_path / "base"), decode=DecodeConfig(decoders=("pyav",)))
    for stage in (Decode, Encode):
        row = stage(spec)(row)
    one, other = shards.from_parquet(Path(parts.part_uri(spec.output_uri, unit.unit_id)).read_bytes()).to_pylist()
    for name in ("latent", "latent_shape", "t_start", "t_end", "motion", *SourceCrop._fields):
        assert one[name] == other[name], name
    assert (one["video_id"], one["caption"], one["tags"]) == (shot["shot_id"], "a bar, red", ["bar", "red"])
    assert (other["video_id"], other["tags"]) == ("alone", None)
    with CopySupervisor(DecodeConfig()) as copies:
        assert one["src_sha256"] == shards.sha256(fetch_video(of_shot.uri, max_bytes=10**7, copies=copies))


@pytest.mark.parametrize(("dtype", "names_remedy"), [("float16", True), ("float32", False)])
def test_a_vae_that_overflows_is_told_with_the_remedy(tmp_path, monkeypatch, dtype, names_remedy):
    (tmp_path / "0.mp4").write_bytes(mp4(20))
    (unit,), _ = plan(str(tmp_path / "dataset"), [SourceVideo("v0", str(tmp_path / "0.mp4"), "a bar")])
    base = build_base(tmp_path / "base")
    vae = load_vae(str(base))
    vae.quant_conv.weight.data *= 1e7  # beyond the largest number of float16, in which shards keep latents
    vae.save_pretrained(base / "vae")
    row = {"ref": [pickle.dumps(unit)], "error": [""]}
    for stage in (Decode, Encode):
        row = stage(make_spec(tmp_path, base, dtype=dtype))(row)
    result = pickle.loads(row["result"][0])
    assert (result.num_clips, result.reasons) == (0, {"nan_latent": 1})
    ((rejection,),) = (
        summary.rejections for summary in parts.read_summaries(str(tmp_path / "dataset"), [unit.unit_id])
    )
    assert "the latents of window 0 are not finite in float16" in rejection.detail
    assert ("ingest with vae_dtype: float32 into another output_uri" in rejection.detail) == names_remedy
