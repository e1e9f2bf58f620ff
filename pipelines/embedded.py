"""The embedded default: what each job runs when it is given no arguments.

Each function makes ready what its job needs (the sprite world's videos, the jobs before it), and returns the URI of the
job's config. The base, its motion module and two personalised files are shipped; all that is made lies under
`runs/sprites` in the working directory.
"""

from pathlib import Path

from animatediff import storage
from animatediff.config import load
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.sprites import shipped
from animatediff.sprites.personalise import train_dreambooth
from animatediff.sprites.videos import break_videos, write_videos
from pipelines.settings import AnimateConfig, IngestConfig, TrainConfig

CONFIGS = Path(__file__).parent / "configs" / "sprites"
ROOT = Path("runs/sprites")
NUM_VIDEOS = 60


def config_uri(job: str) -> str:
    """The shipped config of a job."""
    return str(CONFIGS / f"{job}.yaml")


def prepare_videos() -> None:
    """Render the sprite videos, three of them broken on purpose."""
    source = ROOT / "source"
    if not (source / "videos.csv").exists():
        # Renamed into place when it is whole, so that a kill in between starts over.
        partial = ROOT / "source.partial"
        write_videos(partial, num_videos=NUM_VIDEOS)
        break_videos(partial)
        partial.rename(source)


def prepare_checkpoint() -> None:
    """Fine-tune the shipped base on cel drawings: the catalog's DreamBooth checkpoint."""
    checkpoint = ROOT / "cel_style.safetensors"
    if not checkpoint.exists():
        train_dreambooth(str(shipped.BASE), str(checkpoint), seed=0)


def ingest_default() -> str:
    """Render the sprite videos."""
    prepare_videos()
    return config_uri("ingest")


def train_default() -> str:
    """Ingest the sprite videos, unless that is done."""
    from pipelines import ingest  # the jobs import this module

    config = load(IngestConfig, ingest_default())
    if not storage.exists(storage.join(config.output_uri, MANIFEST_NAME)):
        ingest.main(config)
    return config_uri("train")


def animate_default() -> str:
    """Train on the sprite shards and make the DreamBooth checkpoint, unless that is done."""
    from pipelines import train  # the jobs import this module

    config = load(TrainConfig, train_default())
    if not storage.exists(storage.join(config.output_uri, "motion_module.safetensors")):
        train.main(config)
    prepare_checkpoint()
    return config_uri("animate")


def score_default() -> str:
    """Animate the sprite catalog, unless that is done."""
    from pipelines import animate  # the jobs import this module

    config = load(AnimateConfig, animate_default())
    if not storage.exists(storage.join(config.output_uri, "results.parquet")):
        animate.main(config)
    return config_uri("score")
