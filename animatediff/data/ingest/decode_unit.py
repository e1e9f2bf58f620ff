"""A unit's videos: fetched, checked and cut into clips, or set aside with a reason."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from animatediff.data.decoding.cut import DecodedClip
from animatediff.data.decoding.supervisor import ATTEMPTS as DECODE_ATTEMPTS
from animatediff.data.decoding.supervisor import HANG_ATTEMPTS, DecodeSupervisor
from animatediff.data.ingest.plan import Unit
from animatediff.data.quarantine import Reason, Rejection, VideoError
from animatediff.data.sources.fetching.fetch import ATTEMPTS as FETCH_ATTEMPTS
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_FETCHED_AHEAD = 4
_ATTEMPTS = {
    Reason.FETCH_ERROR: FETCH_ATTEMPTS,
    Reason.DECODER_CRASH: DECODE_ATTEMPTS,
    Reason.DECODER_HANG: HANG_ATTEMPTS,
}


@dataclass
class IngestClip:
    """A decoded clip on its way to the VAE, with what ingest knows of its video."""

    video: SourceVideo
    decoded: DecodedClip
    num_clips_of_video: int
    src_sha256: str
    user_scores: dict[str, float] = field(default_factory=dict)
    """By scorers of the user's own; the built-in ones are in `decoded`."""

    @property
    def clip_id(self) -> str:
        """Unique in the dataset, from content alone."""
        return f"{self.video.video_id}-{self.decoded.index}"


@dataclass
class DecodedUnit:
    """All that became of a unit's videos."""

    unit: Unit
    clips: list[IngestClip] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class _Fetched(NamedTuple):
    data: bytes | None
    error: VideoError | None


def decode_unit(
    unit: Unit,
    supervisor: DecodeSupervisor,
    *,
    max_bytes: int,
    trusted: bool = False,
    is_outage: Callable[[Unit], bool] = lambda unit: True,
) -> DecodedUnit:
    """Decode every video of a unit; each ends as clips or as one rejection.

    The next videos are fetched while one is decoded.

    Args:
        unit: the videos.
        supervisor: decodes them.
        max_bytes: of a file; a larger one is set aside.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
        is_outage: whether the storage is to blame where it failed for every video, asked in that case alone.

    Raises:
        UserError: the storage is down, or the decoder cannot be started. That is an outage or a missing credential,
            not bad videos: the unit stays pending.
    """
    result = DecodedUnit(unit)
    for video, fetched in zip(unit.videos, _fetch_ahead(unit, max_bytes, trusted), strict=True):
        digest = hashlib.sha256(fetched.data).hexdigest() if fetched.data is not None else None
        try:
            decoded = _cut(video, fetched, supervisor)
            result.clips += [IngestClip(video, clip, len(decoded), str(digest)) for clip in decoded]
        except VideoError as error:
            result.rejected.append(_reject(unit, video, error, fetched.data, digest))
    failed = [rejection for rejection in result.rejected if rejection.reason is Reason.FETCH_ERROR]
    if len(failed) == len(unit.videos) and is_outage(unit):
        raise UserError(
            f"no video of unit {unit.unit_id} can be fetched, nor others beside them, is the storage down? "
            f"{failed[0].detail}; if it is gone for good, quarantine_unreachable puts its videos aside"
        )
    return result


def _fetch_ahead(unit: Unit, max_bytes: int, trusted: bool) -> Iterator[_Fetched]:
    """Yield the videos' bytes, in order; a few are on their way, never all of them in memory."""
    with ThreadPoolExecutor(_FETCHED_AHEAD, thread_name_prefix="fetch") as pool:
        ahead: list[Future[_Fetched]] = []
        for video in unit.videos:
            ahead.append(pool.submit(_fetch, video.uri, max_bytes, trusted))
            if len(ahead) > _FETCHED_AHEAD:
                yield ahead.pop(0).result()
        while ahead:
            yield ahead.pop(0).result()


def _fetch(uri: str, max_bytes: int, trusted: bool) -> _Fetched:
    try:
        return _Fetched(fetch(uri, max_bytes=max_bytes, trusted=trusted), None)
    except VideoError as error:
        return _Fetched(None, error)


def _cut(video: SourceVideo, fetched: _Fetched, supervisor: DecodeSupervisor) -> list[DecodedClip]:
    if fetched.error is not None:
        raise fetched.error
    assert fetched.data is not None
    return supervisor.cut(video.video_id, fetched.data)


def _reject(unit: Unit, video: SourceVideo, error: VideoError, data: bytes | None, digest: str | None) -> Rejection:
    return Rejection(
        video.video_id,
        printable_uri(video.uri),
        unit.unit_id,
        error.stage,
        error.reason,
        error.detail,
        attempts=_ATTEMPTS.get(error.reason, 1),
        bytes=None if data is None else len(data),
        src_sha256=digest,
    )
