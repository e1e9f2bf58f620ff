"""The shipped configs for SDXL load, belong to each other, and have the numbers that their comments say."""

from pathlib import Path

import pipelines
from animatediff.config import load
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.weights.motion_schedule import PUBLISHED
from pipelines.settings import IngestConfig, TrainJobConfig

FOLDER = Path(pipelines.__file__).parent / "configs" / "sdxl"
# Height and width, appendix I of arXiv 2307.01952.
OWN_SIZES = {(1024, 1024), (768, 1344), (1344, 768), (832, 1216), (1216, 832)}


def test_the_ingest_cuts_clips_of_sdxl_s_own_sizes():
    config = load(IngestConfig, str(FOLDER / "ingest.yaml"))
    assert set(config.clips.all_sizes) == OWN_SIZES
    assert config.vae_dtype == "auto"


def test_the_training_takes_what_the_ingest_makes_with_the_published_schedule():
    ingest, config = load(IngestConfig, str(FOLDER / "ingest.yaml")), load(TrainJobConfig, str(FOLDER / "train.yaml"))
    assert (config.dataset_uri, config.base) == (ingest.output_uri, ingest.base)
    assert config.schedule.apply_to(NoiseSchedule()) == PUBLISHED[config.model.version]
