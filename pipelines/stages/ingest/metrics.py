"""What the ingest job's workers count, for Prometheus: Ray's own exporter serves it on every node."""

from ray.util.metrics import Counter


class IngestMetrics:
    """Counters of one worker; Ray adds them up over the cluster under these names, with `ray_` before them."""

    def __init__(self) -> None:
        self._clips = Counter("animatediff_ingest_clips", "Clips committed.")
        self._rejected = Counter("animatediff_ingest_quarantined", "Videos set aside.", tag_keys=("reason",))
        self._seconds = Counter("animatediff_ingest_seconds", "Seconds of work, by stage.", tag_keys=("stage",))

    def decoded(self, seconds: float) -> None:
        """Count a unit that was fetched, decoded and given the built-in scores."""
        self._seconds.inc(seconds, {"stage": "decode"})

    def scored(self, seconds: float) -> None:
        """Count a unit that scorers of the user's own have scored."""
        self._seconds.inc(seconds, {"stage": "score"})

    def committed(self, num_clips: int, reasons: dict[str, int], seconds: float) -> None:
        """Count a unit that was encoded and committed."""
        if num_clips:
            self._clips.inc(num_clips)
        for reason, number in reasons.items():
            self._rejected.inc(number, {"reason": reason})
        self._seconds.inc(seconds, {"stage": "encode"})
