"""Tell a storage that is down from files that are gone, by fetching other videos of the plan.

A unit whose videos all fail may be a short one, or lie in the part of a list that a dead host has served. Putting
videos aside while their storage is down would cost them all; waiting for a host that is gone would never end.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from animatediff.data.ingest import plan
from animatediff.data.ingest.plan import Unit
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.fetching import ask_for_video
from animatediff.data.sources.fetching.reach import is_web
from animatediff.data.sources.uris import parse_locator, parse_shot_part

# Videos that are tried: of the storages that failed, and of other web servers. One of each lot that works is enough.
_MOST_SAME, _MOST_OTHERS = 3, 4
_NUM_PLAN_FILES = 4


def storage_works(dataset_uri: str, unit: Unit, *, max_bytes: int, trusted: bool) -> bool:
    """Whether other videos of the plan can be fetched, though none of a unit's can.

    Those that lie where the unit's do are tried first. Web servers come and go, so that others speak for the network;
    a bucket or a disk that fails is an outage, whatever else works.

    Args:
        dataset_uri: the dataset, whose plan names the videos.
        unit: none of its videos could be fetched.
        max_bytes: of a file, as `ask_for_video` takes it.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

    Raises:
        UserError: the plan cannot be read.
    """
    return any(_answers(uri, max_bytes, trusted) for uri in _others(dataset_uri, unit))


def _answers(uri: str, max_bytes: int, trusted: bool) -> bool:
    try:
        ask_for_video(uri, max_bytes=max_bytes, trusted=trusted)
    except VideoError as error:
        return error.reason is Reason.TOO_LARGE  # which it said
    return True


def _others(dataset_uri: str, unit: Unit) -> Iterator[str]:
    """Yield URIs to try: some on the failing storage, of different files, then one each from other web servers."""
    files = {_file(video.uri) for video in unit.videos}
    failing = {storage_of(video.uri) for video in unit.videos}
    same: list[str] = []
    of_known_files: list[str] = []
    servers: dict[str, str] = {}
    for uri in _spread(dataset_uri, unit):
        storage = storage_of(uri)
        if storage in failing and _file(uri) in files:
            of_known_files.append(uri)
        elif storage in failing and len(same) < _MOST_SAME:
            files.add(_file(uri))
            same.append(uri)
        elif storage not in failing and is_web(uri) and len(servers) < _MOST_OTHERS:
            servers.setdefault(storage, uri)
        if len(same) == _MOST_SAME and len(servers) == _MOST_OTHERS:
            break
    yield from (same + of_known_files)[:_MOST_SAME]
    if all(is_web(video.uri) for video in unit.videos):
        yield from servers.values()


def _spread(dataset_uri: str, unit: Unit) -> Iterator[str]:
    """URIs of videos of other units, those of the plan's ends and middle among the first."""
    names = plan.plan_files(dataset_uri)
    chosen = sorted({round(i * (len(names) - 1) / (_NUM_PLAN_FILES - 1)) for i in range(_NUM_PLAN_FILES)})
    lists = []
    for name in (names[index] for index in chosen):
        rows = plan.read_plan_file(dataset_uri, name)
        uris = [
            uri
            for uri, ordinal in zip(rows["uri"].to_pylist(), rows["ordinal"].to_pylist(), strict=True)
            if ordinal != unit.ordinal
        ]
        lists.append(_from_all_over(uris))
    for rank in range(max(map(len, lists), default=0)):
        yield from (uris[rank] for uris in lists if rank < len(uris))


def _from_all_over(uris: list[str]) -> list[str]:
    """Return the same URIs, so that any first few of them lie far apart: 0, 1/2, 1/4, 3/4, 1/8, ... of the way."""
    bits = max(1, (len(uris) - 1).bit_length())
    order = (int(f"{rank:0{bits}b}"[::-1], 2) for rank in range(1 << bits))
    return [uris[index] for index in order if index < len(uris)]


def _file(uri: str) -> str:
    shot = parse_shot_part(uri)
    part = parse_locator(shot.uri if shot else uri)
    return part.uri if part else shot.uri if shot else uri


def storage_of(uri: str) -> str:
    """Return the protocol and server or bucket that a video lies at; empty for this machine's files."""
    parts = urlsplit(_file(uri)) if "://" in uri else None
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}" if parts else ""
