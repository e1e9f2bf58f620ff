"""Sealing on Ray workers: shards are written side by side, and the driver publishes them."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence

import pyarrow.compute as pc
import ray

from animatediff.data import quarantine_table
from animatediff.data.ingest import parts
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.seal import (
    LatentEncoding,
    ShardPlan,
    delete_sealed_parts,
    merge_rejections,
    plan_shards,
    publish,
    read_quarantine,
    write_shard,
)
from animatediff.data.manifest import Manifest, Shard
from pipelines.cluster.runtime import num_cpus
from pipelines.stages.ingest.plan import IngestJob
from pipelines.terminal.failures import as_user_errors
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)

WHAT_IS_KEPT = "what is encoded is kept, and the same command goes on"
"""What a job that ends in any stage says of its work."""


def seal_job(job: IngestJob, metrics: JobMetrics, *, shard_bytes: int) -> Manifest:
    """Seal the units that are not sealed yet; all of them are committed.

    Raises:
        UserError: the storage failed.
    """
    summaries = parts.read_summaries(job.output_uri, [unit.unit_id for unit in job.unsealed_units])
    plans = plan_shards(summaries, job.sealed_manifest, shard_bytes=shard_bytes)
    new_shards = []
    with (
        Progress("seal", total=len(plans), unit="shard") as progress,
        as_user_errors(what_is_kept=WHAT_IS_KEPT, memory_fields="shard_mb"),
    ):
        for shard in _write_shards(job.output_uri, plans, job.latent_encoding):
            new_shards.append(shard)
            progress.update(1)
            metrics.progress(progress.num_done, len(plans))
    old = read_quarantine(job.output_uri) if job.sealed_manifest else quarantine_table.SCHEMA.empty_table()
    rejections = merge_rejections(old, summaries, job.rejected_in_planning, _video_ids(job) if len(old) else ())
    manifest = publish(job.output_uri, len(job.units), job.sealed_manifest, new_shards, rejections, job.latent_encoding)
    delete_sealed_parts(job.output_uri, [unit.unit_id for unit in job.units])
    return manifest


def _video_ids(job: IngestJob) -> Iterator[str]:
    """Ids of the videos in the units that are sealed now."""
    first = len(job.units) - len(job.unsealed_units)
    for name in sorted({unit.plan_file for unit in job.unsealed_units}):
        rows = planning.read_plan_file(job.output_uri, name)
        yield from rows.filter(pc.greater_equal(rows["ordinal"], first))["video_id"].to_pylist()


def _write_shards(output_uri: str, plans: Sequence[ShardPlan], latent_encoding: LatentEncoding) -> Iterator[Shard]:
    """Yield the shards in order.

    No more are being written than the cluster has CPUs, as each is in memory as a whole.
    """
    remote = ray.remote(num_cpus=1, max_retries=2)(write_shard)
    running: deque[ray.ObjectRef[Shard]] = deque()
    for plan in plans:
        if len(running) >= max(1, num_cpus()):
            yield ray.get(running.popleft())
        running.append(remote.remote(output_uri, plan, latent_encoding))
    while running:
        yield ray.get(running.popleft())
