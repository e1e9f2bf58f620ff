"""The embedded default: what each job runs when it is given no arguments.

Each function makes ready what its job needs (the sprite world's videos and base model, and the jobs before it), and
returns the job's config. All of it lies under `runs/sprites` in the working directory.
"""

from pathlib import Path

from animatediff import storage
from animatediff.config import load
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.sprites.base import build_base
from animatediff.sprites.videos import break_videos, write_videos
from pipelines.settings import IngestConfig, TrainConfig

CONFIGS = Path(__file__).parent / "configs"
ROOT = Path("runs/sprites")
NUM_VIDEOS = 60


def config_uri(collection: str, job: str) -> str:
    """The shipped config of a job for a collection of the demo."""
    return str(CONFIGS / collection / f"{job}.yaml")


def prepare_world() -> None:
    """Build the base model and one personalised checkpoint of it, and render the sprite videos."""
    build_base(ROOT / "base")
    build_base(ROOT / "checkpoint", seed=1)
    source = ROOT / "source"
    if not (source / "videos.csv").exists():
        # Renamed into place when it is whole, so that a kill in between starts over.
        partial = ROOT / "source.partial"
        write_videos(partial, num_videos=NUM_VIDEOS)
        break_videos(partial)
        partial.rename(source)


def ingest_default() -> str:
    """Render the sprite videos and build the base model."""
    prepare_world()
    return config_uri("sprites", "ingest")


def train_default() -> str:
    """Ingest the sprite videos, unless that is done."""
    from pipelines import ingest  # the jobs import this module

    config = load(IngestConfig, ingest_default())
    if not storage.exists(storage.join(config.output_uri, MANIFEST_NAME)):
        ingest.main(config)
    return config_uri("sprites", "train")


def animate_default() -> str:
    """Train on the sprite shards, unless that is done."""
    from pipelines import train  # the jobs import this module

    config = load(TrainConfig, train_default())
    if not storage.exists(storage.join(config.output_uri, "motion_module.safetensors")):
        train.main(config)
    return config_uri("sprites", "animate")
