"""The whole path on a laptop, in about ten minutes: videos are ingested, trained on, animated and scored."""

import logging

from animatediff import storage
from animatediff.config import load
from pipelines import animate, embedded, ingest, score, train
from pipelines.cluster.runtime import end_with_one_line
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.tracking.tracker import tracking_uri

logger = logging.getLogger("pipelines.demo")


def main() -> None:
    """Run the jobs on the sprite world, and say where everything is."""
    embedded.prepare_videos()
    ingest_config = load(IngestConfig, embedded.config_uri("ingest"))
    train_config = load(TrainJobConfig, embedded.config_uri("train"))
    animate_config = load(AnimateConfig, embedded.config_uri("animate"))
    ingest.main(ingest_config)
    run = train.main(train_config)
    assert run is not None  # which a dry run alone is
    embedded.prepare_checkpoint()
    animate.main(animate_config)
    score.main(load(ScoreConfig, embedded.config_uri("score")))
    summary = [
        f"shards         {storage.absolute(ingest_config.output_uri)}",
        f"motion module  {storage.absolute(train_config.output_uri)}/motion_module.safetensors",
        f"MLflow run     {run.mlflow_run_id}",
        f"MLflow         mlflow ui --backend-store-uri {tracking_uri()}",
        f"page           {storage.absolute(animate_config.output_uri)}/index.html",
    ]
    logger.info("done:\n%s", "\n".join(summary))


if __name__ == "__main__":
    end_with_one_line(main)
