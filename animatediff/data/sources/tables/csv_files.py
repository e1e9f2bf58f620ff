"""CSV and TSV tables, WebVid's layout among them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

from animatediff import storage
from animatediff.data.quarantine import Reason
from animatediff.data.sources.fetching.reach import Reach
from animatediff.data.sources.files import errors_named, read_text_lines, root_of
from animatediff.data.sources.spec import Fault, SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import Mapping, Table, caption_of, find_column, map_columns, missing_column
from animatediff.data.sources.tables.csv_rows import CsvRows, Row
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_LAYOUT_PROBES = 20


def read_csv(uri: str, source: SourceConfig, *, delimiter: str = ",") -> Iterator[SourceVideo]:
    """Yield the videos of a CSV or TSV.

    Args:
        uri: the file.
        source: its format (`auto` takes a table with WebVid's columns as WebVid's), columns and videos.
        delimiter: between fields, which may be quoted.

    Raises:
        UserError: the file is missing, is no CSV or in an unknown encoding, or lacks a column; WebVid's videos are
            not there.
    """
    rows = iter(CsvRows(read_text_lines(uri, source.encoding), delimiter))
    _, header = next(rows, (0, []))
    if isinstance(header, str):
        raise UserError(f"{printable_uri(uri)} is no CSV in UTF-8: its first line {header}")
    names = [name.strip() for name in _without_blanks(header)]
    if source.format == "webvid" or (source.format == "auto" and _is_webvid(names, source)):
        return _read_webvid(rows, names, uri, source)
    return _read_table(rows, names, uri, source)


def _read_table(rows: Iterator[Row], names: Sequence[str], uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    mapping = map_columns(names, source.columns, uri)
    table = Table.of(source, uri, "line", mapping, source.videos_uri or root_of(uri))
    video, caption = names.index(mapping.video), names.index(mapping.caption)
    name = names.index(mapping.id) if mapping.id is not None else video
    for line, row in rows:
        cells = _fitting(row, names)
        if isinstance(cells, str):
            yield table.unreadable(line, cells)
            continue
        fields = _pad(cells, 1 + max(video, caption, name))
        yield _noting_lack(table.video(line, fields[video], fields[caption], fields[name]), line, cells, names)


def _fitting(row: list[str] | str, names: Sequence[str]) -> list[str] | str:
    """Return the row's cells, or why they are none."""
    if isinstance(row, list) and len(row) > len(names) and len(_without_blanks(row)) > len(names):
        return _too_many(row, names)
    return row


def _too_many(row: list[str], names: Sequence[str]) -> str:
    """Which of them is the caption's rest cannot be told."""
    num = len(_without_blanks(row))
    return f"has {num} cells for {len(names)} columns: put a text with the delimiter in it into quotes"


def _noting_lack(video: SourceVideo, line: int, row: list[str], names: Sequence[str]) -> SourceVideo:
    if video.caption or not video.video_id or len(row) >= len(names):
        return video
    detail = f"line {line} has {len(row)} cells for {len(names)} columns, and no caption"
    return replace(video, fault=Fault(Reason.NO_CAPTION, detail))


def _without_blanks(row: list[str]) -> list[str]:
    """Cells as far as anything stands in them: spreadsheets write empty columns, too."""
    last = max((number for number, cell in enumerate(row, 1) if cell.strip()), default=0)
    return row[:last]


def _pad(row: list[str], length: int) -> list[str]:
    return row if len(row) >= length else row + [""] * (length - len(row))


def _is_webvid(names: Sequence[str], source: SourceConfig) -> bool:
    return {"videoid", "name"} <= set(names) and find_column("video", names, source.columns) is None


def _read_webvid(rows: Iterator[Row], names: Sequence[str], uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    id_name, caption_name = source.columns.id or "videoid", source.columns.caption or "name"
    for role, name in (("id", id_name), ("caption", caption_name)):
        if name not in names:
            raise missing_column(role, name, names, uri)
    folder = (source.videos_uri or storage.join(root_of(uri), "videos")).rstrip("/")
    first = list(islice(rows, _LAYOUT_PROBES))
    if not first:
        return
    page_dir, video_id = names.index("page_dir") if "page_dir" in names else None, names.index(id_name)
    if not _has_pages(first, page_dir, video_id, Reach(uri, folder, source.trusted)):
        page_dir = None
    caption = names.index(caption_name)
    table = Table.of(source, uri, "line", Mapping(id_name, id_name, caption_name), folder)
    for line, row in chain(first, rows):
        cells = _fitting(row, names)
        if isinstance(cells, str):
            yield table.unreadable(line, cells)
            continue
        fields = _pad(cells, 1 + max(video_id, caption, page_dir or 0))
        words = caption_of(fields[caption], f"column {caption_name!r}")
        video = table.beneath(line, _webvid_path(fields, page_dir, video_id), fields[video_id].strip(), words)
        yield _noting_lack(video, line, cells, names)


def _webvid_path(fields: Sequence[str], page_dir: int | None, video_id: int) -> str:
    name = f"{fields[video_id].strip()}.mp4"
    return name if page_dir is None else f"{fields[page_dir]}/{name}"


def _has_pages(rows: Iterable[Row], page_dir: int | None, video_id: int, reach: Reach) -> bool:
    """Whether the videos lie in WebVid's `page_dir` folders: decided by the first of them that is found."""
    layouts = [None] if page_dir is None else [page_dir, None]
    tried = []
    for _, row in rows:
        if isinstance(row, str):
            continue
        fields = _pad(row, 1 + max(video_id, page_dir or 0))
        for layout in layouts:
            place = reach.beneath(_webvid_path(fields, layout, video_id))
            if isinstance(place, Fault):
                continue
            with errors_named(place):
                if storage.exists(place):
                    return layout is not None
            tried.append(printable_uri(place))
    if not tried:  # there is no row that can be used, and each says why
        return False
    raise UserError(
        f"the videos of {printable_uri(reach.table)} are not there: neither "
        f"{' nor '.join(tried[: len(layouts)])} exists (set source.videos_uri)"
    )
