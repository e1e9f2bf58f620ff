"""A catalog of prompts and personalised models to clips, a table and a gallery. Run it again to continue."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from animatediff import storage
from animatediff.config import dump, load
from animatediff.errors import UserError
from animatediff.rendering import checks
from animatediff.rendering.catalog import Catalog, Item, Result, expand
from pipelines.embedded import animate_default
from pipelines.model_uris import resolve_catalog
from pipelines.progress import Progress
from pipelines.runtime import connect, num_gpus, run_job
from pipelines.settings import AnimateConfig
from pipelines.stages.animate import finished, for_items, render_items, write_reports

logger = logging.getLogger(__name__)


def main(config: AnimateConfig) -> list[Result]:
    """Render a catalog.

    Raises:
        UserError: the catalog cannot be rendered as it is written, or items failed (the others are rendered and
            everything is written all the same).
    """
    output_uri = storage.absolute(config.output_uri)
    logger.info("animate: %s -> %s", config.catalog_uri, output_uri)
    catalog = resolve_catalog(load(Catalog, config.catalog_uri), output_uri)
    checks.check(catalog)
    items = expand(catalog)
    storage.write_bytes(storage.join(output_uri, "config.yaml"), dump(config).encode())
    unique = {item.digest: item for item in reversed(items)}
    with ThreadPoolExecutor(16) as pool:
        known = pool.map(partial(finished, output_uri), unique.values())
    by_digest = {result.digest: result for result in known if result}
    pending = [item for item in items if item.digest not in by_digest and item is unique[item.digest]]
    if pending:
        logger.info("%d of %d items to render", len(pending), len(items))
        by_digest |= {result.digest: result for result in _render(config, catalog, pending, output_uri)}
    else:
        logger.info("nothing to render: all %d items are there", len(items))
    results = for_items(items, by_digest)
    write_reports(output_uri, results)
    _report(output_uri, results)
    return results


def _render(config: AnimateConfig, catalog: Catalog, pending: list[Item], output_uri: str) -> list[Result]:
    connect()
    use_gpu = config.use_gpu if config.use_gpu is not None else num_gpus() > 0
    num_actors = config.num_actors or max(1, num_gpus() if use_gpu else 1)
    results = []
    with Progress("animate", total=len(pending), unit="item") as progress:
        for result in render_items(catalog, pending, output_uri, num_actors=num_actors, use_gpu=use_gpu):
            results.append(result)
            progress.update(1, failed=sum(result.status == "failed" for result in results))
    return results


def _report(output_uri: str, results: list[Result]) -> None:
    failed = [result for result in results if result.status == "failed"]
    gallery = storage.join(output_uri, "index.html")
    logger.info("%d clips rendered, %d failed; gallery: %s", len(results) - len(failed), len(failed), gallery)
    if failed:
        first, table = failed[0], storage.join(output_uri, "results.parquet")
        count = f"{len(failed)} of {len(results)} items failed"
        raise UserError(f"{count}, first error (entry {first.entry}): {first.error}; see {table}")


if __name__ == "__main__":
    run_job(main, AnimateConfig, embedded=animate_default)
