"""SDXL's VAE is not used in float16, and any VAE's memory has a bound."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from animatediff import storage
from animatediff.data.clips.config import ClipConfig
from animatediff.data.ingest import provenance
from animatediff.models import vae as vae_module
from animatediff.models.vae import encode_frames
from animatediff.sprites import shipped
from animatediff.weights.base import load_vae
from animatediff.weights.base_facts import BaseFacts
from pipelines.outputs.file_names import INGEST_STATE_FILE
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.dry_run import log_estimate
from pipelines.stages.ingest.plan import read_inputs, with_decoders_of_dataset
from pipelines.stages.ingest.precision import vae_dtype
from pipelines.stages.ingest.watch import IngestState
from tests.support import mp4
from tests.support_sdxl import build_sdxl


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp("sdxl") / "base")


def make_config(base, tmp_path, **changes):
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "a.mp4").write_bytes(mp4(20))
    (tmp_path / "source" / "a.txt").write_text("a bar")
    source, output = {"uri": str(tmp_path / "source")}, str(tmp_path / "dataset")
    return IngestConfig(source=source, output_uri=output, base=str(base), **changes)


def say(base, tmp_path, *, force_upcast):
    """The same base, whose VAE's config says so."""
    copied = tmp_path / "base"
    copied.mkdir()
    for part in Path(base).iterdir():
        (copied / part.name).symlink_to(part)
    (copied / "vae").unlink()
    (copied / "vae").mkdir()
    for file in (Path(base) / "vae").iterdir():
        (copied / "vae" / file.name).write_bytes(file.read_bytes())
    config = json.loads((copied / "vae" / "config.json").read_text()) | {"force_upcast": force_upcast}
    (copied / "vae" / "config.json").write_text(json.dumps(config))
    return str(copied)


def dtypes(base, config):
    facts = BaseFacts(str(base))
    return [vae_dtype(config, facts, use_gpu=use_gpu) for use_gpu in (False, True)]


def test_a_vae_that_overflows_stays_in_float32(sdxl, tmp_path):
    assert dtypes(sdxl, make_config(sdxl, tmp_path)) == ["float32", "float32"]
    assert dtypes(sdxl, make_config(sdxl, tmp_path, vae_dtype="bfloat16")) == ["bfloat16", "bfloat16"]


def test_a_vae_alone_is_known_by_its_scaling_factor(sdxl, tmp_path):
    alone = Path(say(sdxl, tmp_path, force_upcast=True))
    (alone / "unet").unlink()
    assert dtypes(alone, make_config(alone, tmp_path)) == ["float32", "float32"]


def test_others_take_float16_on_a_gpu_whatever_the_field_says_that_diffusers_adds(sdxl, tmp_path):
    mended = say(sdxl, tmp_path, force_upcast=False)
    assert dtypes(mended, make_config(mended, tmp_path)) == ["float32", "float16"]
    assert load_vae(str(shipped.BASE)).config["force_upcast"]  # its class's default
    assert dtypes(shipped.BASE, make_config(shipped.BASE, tmp_path)) == ["float32", "float16"]


@pytest.mark.parametrize(("dtype", "warns"), [("float16", True), ("bfloat16", False), ("auto", False)])
def test_who_asks_for_float16_is_told(sdxl, tmp_path, caplog, dtype, warns):
    read_inputs(make_config(sdxl, tmp_path, vae_dtype=dtype, clips=ClipConfig(height=64, width=64)))
    assert ("set bfloat16 or float32" in caplog.text) == warns


@pytest.mark.parametrize(("side", "sizes"), [(64, [5]), (128, [2, 2, 1]), (256, [1] * 5)])
def test_large_frames_are_encoded_a_few_at_once(sdxl, monkeypatch, side, sizes):
    vae, seen = load_vae(str(sdxl)), []
    vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    frames = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
    at_once = encode_frames(vae, frames)
    assert seen.pop() == 5
    monkeypatch.setattr(vae_module, "_PIXELS_PER_CALL", 2 * 128 * 128 + 1)
    found = encode_frames(vae, frames)
    assert seen == sizes
    assert found.shape == (5, 4, side // 8, side // 8)
    np.testing.assert_allclose(found, at_once, atol=0.01)


def test_the_buckets_of_a_megapixel_are_sdxl_s_own(sdxl, tmp_path):
    # Appendix I of arXiv 2307.01952 lists (768, 1344), (1344, 768), (832, 1216), (1024, 1024).
    clips = ClipConfig(height=1024, width=1024, aspect_ratios=(1.75, 1 / 1.75, 1.46))
    assert clips.all_sizes == [(1024, 1024), (768, 1344), (1344, 768), (832, 1216)]
    read_inputs(make_config(sdxl, tmp_path, clips=clips))


def test_a_dry_run_reckons_with_the_base_s_vae(sdxl, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def told(base, **changes):
        caplog.clear()
        config = make_config(base, tmp_path, **changes)
        log_estimate(config, read_inputs(config), None)
        rate, tflop = next(line for line in caplog.messages if line.startswith("time:")).split(" clips/s (")
        return float(rate.split()[-1]), float(tflop.split()[0])

    mended = say(sdxl, tmp_path, force_upcast=False)
    (half, tflop), (full, same) = told(mended), told(sdxl)
    assert (half, tflop) == (pytest.approx(2 * full, rel=0.01), same)
    assert half * tflop == pytest.approx(125, rel=0.01)
    # A 16 times as large picture takes more than that: attention grows with its square.
    large_rate, large = told(mended, clips=ClipConfig(height=1024, width=1024))
    assert large > 16.5 * tflop
    rated, _ = told(mended, clips=ClipConfig(height=1024, width=1024), rate={"clips_per_s": 7.0})
    assert rated / 7 == pytest.approx(tflop / large, rel=0.01)
    assert large_rate == pytest.approx(125 / large, rel=0.01)


def test_a_dry_run_says_how_many_cpus_feed_a_worker(sdxl, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def told(sealed_manifest=None, **changes):
        caplog.clear()
        config = make_config(sdxl, tmp_path, **changes)
        log_estimate(config, read_inputs(config), sealed_manifest)
        return next(line for line in caplog.messages if line.startswith("decoding:"))

    rate = {"clips_per_s": 28.0, "num_workers": 2}
    assert "2.8 CPUs feed one VAE worker (0.1 s of a CPU for a clip), so num_decoders: 6" in told(
        rate=rate | {"cpu_s_per_clip": 0.1}
    )
    guess = told(rate=rate)
    assert "4.2 CPUs" in guess
    assert "(0.15 s of a CPU for a clip, rate.cpu_s_per_clip is a guess), so num_decoders: 9" in guess
    assert "0.0393 s" in told(rate=rate, clips=ClipConfig(stride=1))
    (tmp_path / "dataset").mkdir(exist_ok=True)
    config = make_config(sdxl, tmp_path)
    state = IngestState(decode_s=50.0).model_dump_json().encode()
    storage.write_bytes(storage.join(config.output_uri, INGEST_STATE_FILE), state)
    assert "5.6 CPUs feed one VAE worker (0.2 s of a CPU for a clip, as the sealed ones took)" in told(
        SimpleNamespace(num_clips=250, num_units=0), rate=rate
    )


def test_a_dataset_keeps_the_decoders_that_it_was_begun_with(sdxl, tmp_path):
    config = make_config(sdxl, tmp_path)
    assert with_decoders_of_dataset(config) is config
    provenance.write_settings(config.output_uri, {"decoders": ["decord", "pyav"]})
    assert with_decoders_of_dataset(config).decode.decoders == ("decord", "pyav")
    # What is asked for in so many words is not changed: the plan refuses it.
    named = make_config(sdxl, tmp_path, decode={"decoders": ["pyav_direct"]})
    assert with_decoders_of_dataset(named) is named
