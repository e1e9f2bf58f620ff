"""What a job's config needs of a node."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from animatediff import storage
from animatediff.config import Config
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.sources.spec import SourceConfig
from animatediff.rendering.catalog.condition_files import condition_files, network_files
from animatediff.rendering.catalog.named_files import named_files
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.results.clip_files import CLIP_DECODERS
from animatediff.rendering.results.table import TABLE
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.tracking.model_uris import is_in_mlflow

# Of a catalog's files: each node opens these, and the dry run of the animate job looks into all of them.
_MOST_FILES = 50


@dataclass(frozen=True)
class Needs:
    """All that is checked for one job; what a job does without is empty."""

    output_uri: str
    source: SourceConfig | None = None
    """The videos."""
    dataset_uris: tuple[str, ...] = ()
    """Sealed datasets."""
    files: tuple[str, ...] = ()
    """Files and folders that workers open."""
    bases: tuple[str, ...] = ()
    base_parts: tuple[str, ...] = ()
    """Which of each base are opened; with SDXL's first text encoder goes the second."""
    decoders: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    """Import paths."""
    captions: CaptionConfig | None = None
    """Who writes captions."""
    use_gpu: bool | None = None
    """None: where there are any."""


def needs_of(config: Config) -> Needs:
    """Return what a job needs.

    Args:
        config: the job's.

    Raises:
        UserError: the catalog of an animate job cannot be read.
    """
    return _BY_CONFIG[type(config)](config)


def _of_curate(config: CurateConfig) -> Needs:
    named = () if config.captions is None else (config.captions.function,)
    return Needs(
        storage.absolute(config.output_uri),
        source=_absolute(config.source),
        captions=config.captions,
        scorers=tuple(path for path in named if path is not None),
        use_gpu=config.use_gpu,
    )


def _absolute(source: SourceConfig) -> SourceConfig:
    videos_uri = storage.absolute(source.videos_uri) if source.videos_uri else None
    return source.model_copy(update={"uri": storage.absolute(source.uri), "videos_uri": videos_uri})


def _of_ingest(config: IngestConfig) -> Needs:
    return Needs(
        storage.absolute(config.output_uri),
        source=_absolute(config.source),
        bases=(storage.absolute_if_there(config.base),),
        base_parts=("vae",),
        decoders=config.decode.decoders,
        scorers=config.scorers,
        use_gpu=config.use_gpu,
    )


def _of_train(config: TrainJobConfig) -> Needs:
    named = (config.model.motion_module, config.model.domain_adapter.path, *config.base_checkpoints)
    return Needs(
        storage.absolute(config.output_uri),
        dataset_uris=tuple(
            storage.absolute(uri) for uri in (config.dataset_uri, config.mix.dataset_uri) if uri is not None
        ),
        files=_workers_files(named),
        bases=(storage.absolute_if_there(config.base),),
        base_parts=("unet", "vae", "text_encoder"),
        use_gpu=config.scaling.use_gpu,
    )


def _of_animate(config: AnimateConfig) -> Needs:
    catalog = catalog_files.read(config.catalog_uri)
    bases = dict.fromkeys(base for entry in catalog.entries if (base := entry.base or catalog.base))
    named = [file.uri for entry in catalog.entries for file in named_files(entry) if file.slot.role != "base"]
    named += _conditions(settings for entry in catalog.entries for settings in catalog.settings_of_prompts(entry))
    return Needs(
        storage.absolute(config.output_uri),
        files=_workers_files((catalog.motion_module, *named)),
        bases=tuple(map(storage.absolute_if_there, bases)),
        base_parts=("unet", "vae", "text_encoder"),
        use_gpu=config.use_gpu,
    )


def _conditions(all_settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the distinct networks, pictures and videos of prompts' settings."""
    found: dict[str, None] = {}
    for settings in all_settings:
        found |= dict.fromkeys((*network_files(settings), *(file.uri for file in condition_files(settings))))
    return list(found)


def _of_score(config: ScoreConfig) -> Needs:
    output_uri = storage.absolute(config.output_uri)
    return Needs(output_uri, files=(storage.join(output_uri, TABLE),), decoders=CLIP_DECODERS, scorers=(config.scorer,))


def _workers_files(named: Any) -> tuple[str, ...]:
    """Return the distinct URIs; what MLflow keeps is the driver's to fetch, and the base has its own check."""
    uris = (uri for uri in dict.fromkeys(named) if uri is not None and uri != "base" and not is_in_mlflow(uri))
    return tuple(storage.absolute_if_there(uri) for uri in islice(uris, _MOST_FILES))


_BY_CONFIG: dict[type[Config], Callable[[Any], Needs]] = {
    CurateConfig: _of_curate,
    IngestConfig: _of_ingest,
    TrainJobConfig: _of_train,
    AnimateConfig: _of_animate,
    ScoreConfig: _of_score,
}
