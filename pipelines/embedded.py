"""The embedded default: what each job runs when it is given no arguments.

Each function makes ready what its job needs (the sprite world's videos, the jobs before it), and returns the URI of the
job's config. The base, its motion module and two personalised files are shipped; all that is made lies under
`sprites` in `submitted.runs_folder`. What draws and trains the sprite world is imported where it is needed: `--help`
does without.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from animatediff import storage
from animatediff.config import Config, load
from animatediff.sprites import shipped
from pipelines.cluster.submitted import is_submitted, runs_folder
from pipelines.outputs.claim import claimed_folder
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig

CONFIGS = Path(__file__).parent / "configs"
NUM_VIDEOS = 60


def root() -> Path:
    """Where all that is made lies."""
    return runs_folder() / "sprites"


def config_uri(job: str) -> str:
    """Return the config of a job: the shipped one, or in a submitted job a copy of it whose paths are in `root`."""
    name = "episodes/curate.yaml" if job == "curate" else f"sprites/{job}.yaml"
    return _writing_to_root(name) if is_submitted() else str(CONFIGS / name)


def _writing_to_root(name: str) -> str:
    moved = root() / "configs" / Path(name).name
    text = (CONFIGS / name).read_text().replace("runs/sprites", str(root()))
    if name == "sprites/animate.yaml":
        text = text.replace("pipelines/configs/sprites/catalog.yaml", _writing_to_root("sprites/catalog.yaml"))
    storage.write_bytes(str(moved), text.encode())
    return str(moved)


def prepare_videos() -> None:
    """Render the sprite videos, three of them broken on purpose."""
    from animatediff.sprites.videos import break_videos, write_videos

    source = root() / "source"
    if not (source / "videos.csv").exists():
        # Renamed into place when it is whole, so that a kill in between starts over.
        partial = root() / "source.partial"
        write_videos(partial, num_videos=NUM_VIDEOS)
        break_videos(partial)
        partial.rename(source)


def prepare_checkpoint() -> None:
    """Fine-tune the shipped base on cel drawings: the catalog's DreamBooth checkpoint."""
    from animatediff.sprites.personalise import train_dreambooth

    checkpoint = root() / "cel_style.safetensors"
    if not checkpoint.exists():
        train_dreambooth(str(shipped.BASE), str(checkpoint), seed=0)


def curate_default() -> str:
    """Make the sprite world's episodes."""
    from animatediff.sprites.episodes import write_episodes

    write_episodes(root() / "episodes" / "source")
    return config_uri("curate")


def ingest_default() -> str:
    """Render the sprite videos."""
    prepare_videos()
    return config_uri("ingest")


def train_default() -> str:
    """Ingest the sprite videos, unless that is done."""
    config = load(IngestConfig, ingest_default())
    if not storage.exists(storage.join(config.output_uri, "manifest.json")):
        with claimed_folder(config.output_uri, "ingest", is_dry=False):
            from pipelines.stages.ingest.driver import ingest

            ingest(config)
    return config_uri("train")


def animate_default() -> str:
    """Train on the sprite shards and make the DreamBooth checkpoint, unless that is done."""
    config = load(TrainJobConfig, train_default())
    if not storage.exists(storage.join(config.output_uri, "motion_module.safetensors")):
        with claimed_folder(config.output_uri, "train", is_dry=False):
            from pipelines.stages.train.driver import train

            train(config)
    prepare_checkpoint()
    return config_uri("animate")


def score_default() -> str:
    """Animate the sprite catalog, unless that is done."""
    config = load(AnimateConfig, animate_default())
    if not storage.exists(storage.join(config.output_uri, "results.parquet")):
        with claimed_folder(config.output_uri, "animate", is_dry=False):
            from pipelines.stages.animate.driver import animate

            animate(config)
    return config_uri("score")


DEFAULTS: Mapping[type[Config], Callable[[], str]] = {
    CurateConfig: curate_default,
    IngestConfig: ingest_default,
    TrainJobConfig: train_default,
    AnimateConfig: animate_default,
    ScoreConfig: score_default,
}
"""By a job's config: makes ready what it needs, and returns its config's URI."""
