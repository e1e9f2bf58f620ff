"""A catalog of prompts and personalised models to clips, a table and a gallery. Run it again to continue."""

import logging
from collections import Counter

from animatediff import storage
from animatediff.config import dump
from animatediff.errors import UserError
from animatediff.rendering import catalog_files, checks
from animatediff.rendering.catalog import Item, Plan, Result, expand
from pipelines.embedded import animate_default
from pipelines.model_uris import resolve_catalog
from pipelines.runtime import run_job
from pipelines.settings import AnimateConfig
from pipelines.stages.animate import render_pending
from pipelines.stages.ledger import Ledger
from pipelines.stages.reports import places, write_reports

logger = logging.getLogger(__name__)


def main(config: AnimateConfig) -> Counter[str]:
    """Render a catalog.

    Returns:
        The number of items by status.

    Raises:
        UserError: nothing in the catalog can be rendered as it is written, or items failed (the others are rendered
            and everything is written all the same).
    """
    output_uri = storage.absolute(config.output_uri)
    logger.info("animate: %s -> %s", config.catalog_uri, output_uri)
    catalog = resolve_catalog(catalog_files.read(config.catalog_uri), output_uri)
    problems = checks.check(catalog)
    plan = expand(catalog, problems=problems)
    if problems:
        logger.warning("%s", checks.report(problems, catalog))
    ledger = Ledger(output_uri, {item.digest for item in plan.items})
    finished = ledger.finished(config.formats)
    pending = _pending(plan, finished)
    storage.write_bytes(storage.join(output_uri, "config.yaml"), dump(config).encode())
    if pending:
        logger.info("%d of %d items to render", len(pending), len(plan.items))
        render_pending(config, plan, pending, ledger)
    else:
        logger.info("nothing to render: all %d items are there", len(plan.items))
    counts = write_reports(output_uri, ledger.results(plan.items, plan.invalid))
    _report(output_uri, plan, ledger, counts)
    return counts


def _pending(plan: Plan, finished: set[str]) -> list[Item]:
    """The first item of each digest that can be rendered and is not."""
    first = {item.digest: item for item in reversed(plan.items)}
    return [
        item
        for item in plan.items
        if item is first[item.digest] and item.digest not in finished and item.digest not in plan.invalid
    ]


def _report(output_uri: str, plan: Plan, ledger: Ledger, counts: Counter[str]) -> None:
    table, gallery = places(output_uri)
    lost = counts["failed"] + counts["invalid"]
    logger.info(
        "%d clips rendered, %d failed, %d invalid; gallery: %s",
        counts["ok"],
        counts["failed"],
        counts["invalid"],
        gallery,
    )
    if lost:
        results = ledger.results(plan.items, plan.invalid)
        first: Result = next(result for result in results if result.status != "ok")
        count = f"{lost} of {len(plan.items)} items failed"
        raise UserError(f"{count}, first error (entry {first.entry}): {first.error}; see {table}")


if __name__ == "__main__":
    run_job(main, AnimateConfig, embedded=animate_default)
