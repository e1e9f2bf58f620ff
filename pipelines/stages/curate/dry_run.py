"""A dry run of the curate job: what it would do, how long it takes and what it costs. Nothing is written."""

import logging

from animatediff import storage
from animatediff.data.curation.source_lengths import SourceLengths, estimate_lengths
from animatediff.data.ingest import parts
from animatediff.data.sources.spec import SourceVideo
from pipelines.settings import CurateConfig
from pipelines.stages.curate.plan import CurateInputs, VideoBatches, extend_plan, log_left_out
from pipelines.terminal.hours import cost, duration

logger = logging.getLogger(__name__)

_MOST_READ = 32


def log_estimate(config: CurateConfig, inputs: CurateInputs) -> None:
    """Log what the job would do. Of up to 32 videos, spread over the source, the header is read.

    Raises:
        UserError: the source cannot be read, or the output holds another collection's plan.
    """
    output_uri = storage.absolute(config.output_uri)
    sample = _Sample()
    units, rejected = extend_plan(config, sample.taken_from(inputs.videos), inputs, dataset_key=None)
    log_left_out(rejected, inputs.not_taken)
    done = parts.committed_unit_ids(output_uri)
    pending = [unit for unit in units if unit.unit_id not in done]
    num_videos = sum(unit.num_videos for unit in pending)
    logger.info("to scan: %d videos; %d units are done", num_videos, len(units) - len(pending))
    lengths = estimate_lengths([video.uri for video in sample.videos], trusted=config.source.trusted)
    if num_videos and lengths is not None:
        _log_hours(config, num_videos, lengths)


def _log_hours(config: CurateConfig, num_videos: int, lengths: SourceLengths) -> None:
    rate = config.rate
    hours = num_videos * lengths.mean_s / 3600
    scan_hours = num_videos * lengths.mean_pixels / rate.pixels_per_s / rate.num_workers / 3600
    logger.info(
        "source: about %.3g hours of video (from the headers of %d videos); scan: %s on %d workers%s",
        hours,
        lengths.num_read,
        duration(scan_hours),
        rate.num_workers,
        cost(scan_hours, rate.num_workers, rate.usd_per_hour),
    )
    num_shots = 3600 * hours / rate.shot_s
    num_selected = rate.selected * num_shots
    price = rate.usd_per_1000_captions
    logger.info(
        "about %d shots, %d of them selected%s; rate.* says what to reckon with",
        num_shots,
        num_selected,
        ""
        if config.captions is None
        else f"; captions: {duration(num_selected / rate.captions_per_s / 3600)}"
        + ("" if price is None else f", about {num_selected / 1000 * price:.2f} USD"),
    )


class _Sample:
    """Videos that lie evenly over a source of unknown length: every second one is dropped when there are too many."""

    def __init__(self) -> None:
        self.videos: list[SourceVideo] = []
        self._every, self._count = 1, 0

    def taken_from(self, batches: VideoBatches) -> VideoBatches:
        """Pass the batches on, and keep some of their videos."""
        for batch in batches:
            for video in batch:
                if self._count % self._every == 0:
                    self.videos.append(video)
                self._count += 1
                if len(self.videos) > _MOST_READ:
                    del self.videos[1::2]
                    self._every *= 2
            yield batch
