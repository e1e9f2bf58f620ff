"""A unit's videos: fetched, checked and cut into clips, or set aside with a reason."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from animatediff.data.decoding.cut import DecodedClip
from animatediff.data.decoding.supervisor import DecodeSupervisor
from animatediff.data.ingest.outage import storage_of
from animatediff.data.ingest.plan import Unit
from animatediff.data.quarantine import Reason, Rejection, VideoError
from animatediff.data.shots.copies.fetching import fetch_video
from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.data.sources.fetching.attempts import ATTEMPTS as FETCH_ATTEMPTS
from animatediff.data.sources.fetching.reach import is_web
from animatediff.data.sources.spec import SourceVideo
from animatediff.data.supervision.supervisor import ATTEMPTS as DECODE_ATTEMPTS
from animatediff.data.supervision.supervisor import HANG_ATTEMPTS
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_FETCHED_AHEAD = 4
_LOOK_AGAIN_S = 10.0
_ATTEMPTS = {
    Reason.FETCH_ERROR: FETCH_ATTEMPTS,
    Reason.DECODER_CRASH: DECODE_ATTEMPTS,
    Reason.DECODER_HANG: HANG_ATTEMPTS,
}


@dataclass
class IngestClip:
    """A decoded clip on its way to the VAE, with what ingest knows of its video."""

    video: SourceVideo
    decoded_clip: DecodedClip
    num_clips_of_video: int
    src_sha256: str
    user_scores: dict[str, float] = field(default_factory=dict)
    """By scorers of the user's own; the built-in ones are in `decoded_clip`."""

    @property
    def clip_id(self) -> str:
        """Unique in the dataset, from content alone."""
        return f"{self.video.video_id}-{self.decoded_clip.index}"


@dataclass
class DecodedUnit:
    """All that became of a unit's videos."""

    unit: Unit
    clips: list[IngestClip] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


class _Fetched(NamedTuple):
    data: bytes | None
    error: VideoError | None


_Outcome: TypeAlias = list[IngestClip] | Rejection
"""What became of a video."""


def decode_unit(
    unit: Unit,
    supervisor: DecodeSupervisor,
    *,
    max_bytes: int,
    copies: CopySupervisor,
    trusted: bool = False,
    is_outage: Callable[[Unit], bool] = lambda unit: True,
    max_outage_s: float | None = 0.0,
) -> DecodedUnit:
    """Decode every video of a unit; each ends as clips or as one rejection.

    The next videos are fetched while one is decoded. What a disk or an object store does not give is fetched once more
    when all others are done, and the store answers: the machine may have been without a network for a while.

    Args:
        unit: the videos.
        supervisor: decodes them.
        max_bytes: of a file; a larger one is set aside.
        copies: cuts shots out of their videos.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
        is_outage: called when every video of the unit, or every one of a store, could not be fetched: True if the
            storage is down, False if only these videos are gone.
        max_outage_s: seconds that a storage which does not answer is waited for; None where it is gone for good, so
            that its videos are set aside.

    Raises:
        UserError: the storage is down, or the decoder cannot be started. That is an outage or a missing credential,
            not bad videos: the unit stays pending.
    """
    fetching = _Fetching(max_bytes, trusted, copies)
    outcomes = _decode_videos(unit, unit.videos, supervisor, fetching)
    unfetched = _UnfetchedVideos(unit, outcomes, fetching, is_outage)
    if unfetched.from_stores or unfetched.are_all:
        was_away = max_outage_s is not None and not unfetched.storage_answers()
        if max_outage_s is not None and was_away and not _comes_back(unfetched.storage_answers, max_outage_s):
            raise unfetched.outage_error(outcomes)
        again = unfetched.videos if was_away else unfetched.from_stores
        refetched = _decode_videos(unit, again, supervisor, fetching)
        outcomes |= {video: _with_doubled_attempts(outcome) for video, outcome in refetched.items()}
    return _in_order(unit, outcomes)


class _UnfetchedVideos:
    """The videos of a unit that could not be fetched, and whether their storage is down."""

    def __init__(
        self,
        unit: Unit,
        outcomes: Mapping[str, _Outcome],
        fetching: "_Fetching",
        is_outage: Callable[[Unit], bool],
    ) -> None:
        self._unit, self._fetching, self._is_outage = unit, fetching, is_outage
        self.videos = [video for video in unit.videos if _is_unfetched(outcomes[video.video_id])]
        # A web server that failed is usually gone, and to ask each again would take hours: only the videos of stores
        # and disks, which come back as a whole, are fetched again.
        self.from_stores = [video for video in self.videos if not is_web(video.uri)]
        failing = {storage_of(video.uri) for video in self.from_stores}
        self._beside = [video for video in unit.videos if video not in self.videos and storage_of(video.uri) in failing]
        """Videos of the same stores that could be fetched."""

    @property
    def are_all(self) -> bool:
        """Whether no video of the unit could be fetched."""
        return len(self.videos) == len(self._unit.videos)

    def storage_answers(self) -> bool:
        """Ask the storage: for a video that it gave before, or, where it gave none, as `is_outage` does."""
        if self.are_all or (self.from_stores and not self._beside):
            return not self._is_outage(self._unit)
        refused = self._fetching.fetch(self._beside[-1].uri).error if self._beside else None
        return refused is None or refused.reason is not Reason.FETCH_ERROR

    def outage_error(self, outcomes: Mapping[str, _Outcome]) -> UserError:
        """Return the line that says what does not answer."""
        first = outcomes[self.videos[0].video_id]
        assert isinstance(first, Rejection)
        which = "no" if self.are_all else "not every"
        return UserError(
            f"{which} video of unit {self._unit.unit_id} can be fetched, nor others beside them, is the storage down? "
            f"{first.detail}; if it is gone for good, quarantine_unreachable puts its videos aside"
        )


def _is_unfetched(outcome: _Outcome) -> bool:
    return isinstance(outcome, Rejection) and outcome.reason is Reason.FETCH_ERROR


def _with_doubled_attempts(outcome: _Outcome) -> _Outcome:
    if isinstance(outcome, Rejection) and outcome.reason is Reason.FETCH_ERROR:
        return replace(outcome, attempts=2 * outcome.attempts)
    return outcome


def _comes_back(storage_answers: Callable[[], bool], max_outage_s: float) -> bool:
    """Wait for a storage that did not answer; return whether it does."""
    deadline = time.monotonic() + max_outage_s
    while time.monotonic() < deadline:
        time.sleep(min(_LOOK_AGAIN_S, max_outage_s))
        if storage_answers():
            return True
    return False


def _decode_videos(
    unit: Unit, videos: Sequence[SourceVideo], supervisor: DecodeSupervisor, fetching: "_Fetching"
) -> dict[str, _Outcome]:
    """Return what became of videos, by id."""
    outcomes: dict[str, _Outcome] = {}
    for video, fetched in zip(videos, fetching.ahead(videos), strict=True):
        digest = hashlib.sha256(fetched.data).hexdigest() if fetched.data is not None else None
        try:
            decoded = _cut(video, fetched, supervisor)
            outcomes[video.video_id] = [IngestClip(video, clip, len(decoded), str(digest)) for clip in decoded]
        except VideoError as error:
            outcomes[video.video_id] = _reject(unit, video, error, fetched.data, digest)
    return outcomes


def _in_order(unit: Unit, outcomes: Mapping[str, _Outcome]) -> DecodedUnit:
    result = DecodedUnit(unit)
    for outcome in (outcomes[video.video_id] for video in unit.videos):
        if isinstance(outcome, Rejection):
            result.rejections.append(outcome)
        else:
            result.clips += outcome
    return result


@dataclass(frozen=True)
class _Fetching:
    """How videos are fetched."""

    max_bytes: int
    trusted: bool
    copies: CopySupervisor

    def ahead(self, videos: Sequence[SourceVideo]) -> Iterator[_Fetched]:
        """Yield the videos' bytes, in order; a few are on their way, never all of them in memory."""
        with ThreadPoolExecutor(_FETCHED_AHEAD, thread_name_prefix="fetch") as pool:
            ahead: list[Future[_Fetched]] = []
            for video in videos:
                ahead.append(pool.submit(self.fetch, video.uri))
                if len(ahead) > _FETCHED_AHEAD:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()

    def fetch(self, uri: str) -> _Fetched:
        """Return a video's bytes, or why there are none."""
        try:
            return _Fetched(fetch_video(uri, max_bytes=self.max_bytes, copies=self.copies, trusted=self.trusted), None)
        except VideoError as error:
            return _Fetched(None, error)


def _cut(video: SourceVideo, fetched: _Fetched, supervisor: DecodeSupervisor) -> list[DecodedClip]:
    if fetched.error is not None:
        raise fetched.error
    assert fetched.data is not None
    return supervisor.cut(video.video_id, fetched.data, video.crop)


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
