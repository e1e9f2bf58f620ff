"""The animate job on its driver: plan the catalog, render what is missing, write the table and the gallery."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from animatediff import storage
from animatediff.config import dump
from animatediff.errors import errors_with_field
from animatediff.rendering.catalog.catalog import RenderPlan, expand
from animatediff.rendering.catalog.prompts import prompt_syntax
from animatediff.rendering.catalog.prompts.prompt_text import PromptSyntax
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.catalog.remembered_hashes import hash_catalog_files
from animatediff.rendering.checks import catalog as checks
from animatediff.rendering.checks.few_step import set_by_files
from animatediff.rendering.results.ledger import Ledger
from animatediff.rendering.results.reports import write_reports
from pipelines.outputs.file_names import CONFIG_FILE
from pipelines.settings import AnimateConfig
from pipelines.stages.animate.dry_run import estimate
from pipelines.stages.animate.launch import pending_items, render_pending
from pipelines.stages.animate.precision import auto_precision
from pipelines.stages.animate.reports import log_counts_and_raise_if_failed
from pipelines.tracking.model_uris import fetch_catalog_weights

logger = logging.getLogger(__name__)


def animate(config: AnimateConfig) -> Counter[str]:
    """Render what is missing of a catalog, and write the table and the gallery of all of it.

    Returns:
        The number of items by status; none after a dry run.

    Raises:
        UserError: nothing in the catalog can be rendered, or items failed; the others are rendered and written.
    """
    output_uri = storage.absolute(config.output_uri)
    logger.info("animate: %s -> %s", config.catalog_uri, output_uri)
    plan = _plan(config, output_uri)
    ledger = Ledger(output_uri, {item.digest for item in plan.items})
    finished = ledger.finished(config.formats)
    if config.dry_run:
        done = ledger.results((item for item in plan.items if item.digest in finished), {})
        for line in estimate(plan, finished, config.rate, done):
            logger.info("%s", line)
        return Counter()
    storage.write_bytes(storage.join(output_uri, CONFIG_FILE), dump(config).encode())
    finished = _verified(ledger, finished)
    pending = pending_items(plan, finished)
    if pending:
        logger.info("%d of %d items to render", len(pending), len(plan.items))
        render_pending(config, plan, pending, ledger)
    else:
        there = sum(item.digest in finished for item in plan.items)
        logger.info("nothing to render: %d of %d items are there", there, len(plan.items))
    counts = write_reports(output_uri, ledger.results(plan.items, plan.invalid))
    log_counts_and_raise_if_failed(output_uri, counts, ledger.results(plan.items, plan.invalid))
    return counts


def _verified(ledger: Ledger, finished: set[str]) -> set[str]:
    """Return the digests of the finished items whose clips have the bytes that were written."""
    if finished:
        logger.info("comparing the clips that are there with their hashes: %d", len(finished))
    kept = ledger.verify_clips(finished)
    if ledger.damaged_files:
        logger.warning(
            "clips that are gone or damaged are rendered again: %d, first %s",
            len(ledger.damaged_files),
            ledger.damaged_files[0],
        )
    return kept


def _plan(config: AnimateConfig, output_uri: str) -> RenderPlan:
    with errors_with_field("catalog_uri"):
        catalog = catalog_files.read(config.catalog_uri)
    with _home_of_weights(config, output_uri) as home_uri:
        catalog = set_by_files(fetch_catalog_weights(catalog, home_uri))
        problems = checks.check(catalog)
        if problems:
            logger.warning("%s", checks.report(problems, catalog))
        # There may be terabytes of checkpoints: they are read once, not at every resume.
        remembered_uri = storage.join(output_uri, "inputs", "hashes.json")
        plan = expand(
            catalog,
            problems=problems,
            content_hash=hash_catalog_files(catalog, remembered_uri, is_dry_run=config.dry_run),
            auto_precision=auto_precision(config, catalog, output_uri),
        )
    for syntax in get_args(PromptSyntax):
        texts = (text for item in plan.items if item.prompt_syntax == syntax for text in item.texts)
        if found := prompt_syntax.report(texts, syntax):
            logger.warning("%s", found)
    return plan


@contextmanager
def _home_of_weights(config: AnimateConfig, output_uri: str) -> Iterator[str]:
    """Yield the folder below which weights that MLflow keeps are put; a dry run's goes when they have been read."""
    if config.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    else:
        yield output_uri
