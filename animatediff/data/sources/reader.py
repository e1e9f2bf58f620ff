"""Sources: captioned videos from tables, folders and tars, lazily and in the source's own order."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from animatediff import storage
from animatediff.data.sources.collections.folder import read_folder
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts, kind_of
from animatediff.data.sources.collections.shots import find_manifest, read_shots
from animatediff.data.sources.collections.tars import read_tars
from animatediff.data.sources.fetching.reach import is_chain
from animatediff.data.sources.files import errors_named, is_file, root_of, suffix_of
from animatediff.data.sources.limits import BATCH_BYTES
from animatediff.data.sources.listing import expand, list_folder
from animatediff.data.sources.spec import AMBIGUOUS_SUFFIXES, VIDEO_SUFFIXES, SourceConfig, SourceVideo
from animatediff.data.sources.tables.csv_files import read_csv
from animatediff.data.sources.tables.jsonl_files import read_jsonl
from animatediff.data.sources.tables.parquet_files import read_parquet
from animatediff.errors import UserError
from animatediff.uris import printable_uri, with_secrets

BATCH_VIDEOS = 10_000
_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "webdataset",
    ".tgz": "webdataset",
} | dict.fromkeys(VIDEO_SUFFIXES, "folder")


def read_source(source: SourceConfig, not_taken: NonVideoFileCounts | None = None) -> Iterator[list[SourceVideo]]:
    """Yield all videos of a source, in its order; no more than a batch of a table's rows is held at once.

    What cannot be used does not stop its neighbours: its fault says why. A row without an id has a URI that names its
    place.

    Args:
        source: where the videos are and how they are told.
        not_taken: gets the files of the source that are no videos and belong to none; complete at the end.

    Yields:
        Batches of 1 to 10,000 videos, fewer where their captions are long.

    Raises:
        UserError: while iterating. The source is missing, unreachable or of another format, lacks a column, or holds
            no videos.
    """
    videos = _read(source, NonVideoFileCounts() if not_taken is None else not_taken)
    is_empty = True
    while batch := _take(videos):
        yield batch
        is_empty = False
    if is_empty:
        raise UserError(f"{printable_uri(source.uri)} lists no videos (source.uri)")


def _take(videos: Iterator[SourceVideo]) -> list[SourceVideo]:
    batch: list[SourceVideo] = []
    num_chars = 0
    for video in islice(videos, BATCH_VIDEOS):
        batch.append(video)
        num_chars += video.num_chars
        if num_chars > BATCH_BYTES:
            break
    return batch


def _read(source: SourceConfig, not_taken: NonVideoFileCounts) -> Iterator[SourceVideo]:
    source = _absolute(source)
    may_be_shots = source.format == "auto" and is_file(source.uri) and suffix_of(source.uri) not in _FORMATS
    if may_be_shots and (manifest := find_manifest(source.uri)) is not None:
        _refuse_unused(source, "shots")
        return read_shots(source, manifest)
    kind = _kind_of(source.uri) if source.format == "auto" else source.format
    if kind in ("csv", "tsv", "webvid", "jsonl") or not _is_folder(source.uri, kind):
        return _read_files(source, kind, expand(source.uri, not_taken), root_of(source.uri), not_taken)
    names = list_folder(source.uri, not_taken)
    kind = _kind_within(source.uri, names) if source.format == "auto" else kind
    if kind == "folder":
        _refuse_unused(source, kind)
        return read_folder(source.uri, _require(names, kind, source.uri), source, not_taken)
    files = [name for name in _require(names, kind, source.uri) if _kind_of(name) == kind]
    not_taken.update(kind_of(name) for name in names if _kind_of(name) != kind)
    return _read_files(source, kind, [storage.join(source.uri, name) for name in files], source.uri, not_taken)


def _kind_of(name: str) -> str:
    return _FORMATS.get(suffix_of(name), "folder")


def _is_folder(uri: str, kind: str) -> bool:
    """Whether `uri` holds the files, rather than being or matching them."""
    if kind == "folder":
        return True
    # Writers of Parquet call folders so; to a web server a folder is a page like any other.
    if not is_file(uri) or (uri.startswith(("http://", "https://")) and _kind_of(uri) == kind):
        return False
    with errors_named(uri):
        fs, path = storage.filesystem(uri)
        return bool(fs.isdir(path))


def _kind_within(uri: str, names: Sequence[str]) -> str:
    """Return what a folder holds: videos, tars or Parquet files."""
    there = {_FORMATS.get(suffix_of(name)) for name in names if suffix_of(name) not in AMBIGUOUS_SUFFIXES}
    there &= {"folder", "webdataset", "parquet"}
    if len(there) > 1:
        kinds = " and ".join(sorted(str(kind) for kind in there))
        raise UserError(f"the folder {printable_uri(uri)} holds files of the formats {kinds}: set source.format to one")
    return str(there.pop()) if there else "folder"


def _require(names: Sequence[str], kind: str, uri: str) -> Sequence[str]:
    if any(_FORMATS.get(suffix_of(name)) == kind for name in names):
        return names
    what = "videos" if kind == "folder" else f"{kind} files"
    suffixes = ", ".join(suffix for suffix, its_kind in _FORMATS.items() if its_kind == kind)
    raise UserError(f"there are no {what} ({suffixes}) in the folder {printable_uri(uri)} (source.uri)")


def _read_files(
    source: SourceConfig, kind: str, files: Sequence[str], root: str, not_taken: NonVideoFileCounts
) -> Iterator[SourceVideo]:
    _refuse_unused(source, kind)
    if kind == "webdataset":
        return read_tars(files, root, source, not_taken)
    return chain.from_iterable(_read_table(uri, source, kind) for uri in files)


def _read_table(uri: str, source: SourceConfig, kind: str) -> Iterator[SourceVideo]:
    if kind == "jsonl":
        return read_jsonl(uri, source)
    if kind == "parquet":
        return read_parquet(uri, source)
    return read_csv(uri, source, delimiter="\t" if kind == "tsv" else ",")


def _refuse_unused(source: SourceConfig, kind: str) -> None:
    """Refuse settings that would change nothing: they are mistakes."""
    is_table = kind not in ("folder", "webdataset", "shots")
    unused = [] if is_table or source.videos_uri is None else ["videos_uri"]
    names = (["bytes"] if kind != "parquet" else []) if is_table else ["id", "video", "bytes"]
    names += ["video"] if kind == "webvid" else []
    unused += [f"columns.{name}" for name in names if getattr(source.columns, name) is not None]
    if unused:
        raise UserError(f"source.{unused[0]} means nothing to a source of the format {kind}: remove it")


def _absolute(source: SourceConfig) -> SourceConfig:
    """With URIs to open, and that a worker in another folder understands.

    Raises:
        UserError: they are none that its files can be fetched from.
    """
    for name in ("uri", "videos_uri"):
        if is_chain(getattr(source, name) or ""):
            detail = "chains file systems (`::`), which read and keep files without bounds: name the files themselves"
            raise UserError(f"{printable_uri(getattr(source, name))} {detail} (source.{name})")
    videos_uri = with_secrets(storage.absolute(source.videos_uri)) if source.videos_uri is not None else None
    return source.model_copy(update={"uri": with_secrets(storage.absolute(source.uri)), "videos_uri": videos_uri})
