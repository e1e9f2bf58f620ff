"""Pages of a collection: an index of its videos, and for each all its shots, with pictures and what was decided.

Each page is one file that needs nothing but itself, and a long video has several.
"""

import base64
import hashlib
import html
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data.curation import scan_parts
from animatediff.data.curation.manifest import ShotManifest
from animatediff.data.curation.selection import meaning_of
from animatediff.data.curation.shot_table import read_rows
from animatediff.data.ingest.seal import read_quarantine
from animatediff.errors import UserError

INDEX = "index.html"
FOLDER = "pages"
"""Below the collection's own folder."""
_SHOWN_SCORES = ("motion", "moving", "cut", "text", "brightness", "sharpness")
_MOST_QUARANTINED = 200
_MOST_SHOTS = 500
"""Of a page: with their pictures it is 6 MB, and browsers read it whole before they show the last."""
_SELECTED = "selected"
"""What stands in a list of reasons for shots that have none."""
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --bad: #c0392b; --good: #2e8b57; }
body { margin: 0 auto; max-width: 1180px; padding: 16px; font: 14px/1.45 system-ui, "Segoe UI", sans-serif; }
h1 { font-size: 18px; overflow-wrap: anywhere; } h2 { font-size: 15px; margin-top: 28px; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--dim); font-weight: 500; }
td, th { padding: 6px 8px; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.shot { display: grid; grid-template-columns: 500px 1fr; gap: 14px; padding: 10px 0; }
.shot { border-bottom: 1px solid var(--line); content-visibility: auto; contain-intrinsic-size: auto 110px; }
.shot[hidden] { display: none; } .filter { position: sticky; top: 0; padding: 6px 0; background: Canvas; z-index: 1; }
.shot img { width: 160px; height: auto; margin-right: 4px; vertical-align: top; background: #0002; }
.left-out { opacity: .55; } .dim { color: var(--dim); font-size: 12px; font-variant-numeric: tabular-nums; }
.reason { color: var(--bad); font-weight: 600; } .caption { overflow-wrap: anywhere; }
.border { display: inline-block; border-radius: 4px; padding: 0 6px; font-size: 12px; color: #fff; }
.cut { background: #c0392b; } .dissolve { background: #2c6fbb; } .fade { background: #444; }
.wipe { background: #7a4fa3; }
.start, .end { background: #2e8b57; } .split { background: #b8860b; }
.tag { border: 1px solid var(--line); border-radius: 4px; padding: 0 5px; margin-right: 4px; font-size: 12px; }
@media (max-width: 900px) { .shot { grid-template-columns: 1fr; } .shot img { width: 30%; } }
"""
_SCRIPT = """
const shots = [...document.querySelectorAll(".shot")], show = document.querySelector("#show");
const order = document.querySelector("#order"), places = new Map(shots.map((shot, place) => [shot, place]));
show.onchange = () => shots.forEach(shot => { shot.hidden = show.value && shot.dataset.reason !== show.value; });
order.onchange = () => {
  const key = shot => order.value === "reason" ? shot.dataset.reason : -(shot.dataset[order.value] ?? -Infinity);
  const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  const sorted = [...shots].sort((a, b) => (order.value && compare(key(a), key(b))) || places.get(a) - places.get(b));
  document.querySelector("#shots").append(...sorted);
};
"""


def write_pages(collection_uri: str, manifest: ShotManifest, source_uri: str) -> None:
    """Write the index, and a page for each video.

    Args:
        collection_uri: the collection's folder.
        manifest: as it is sealed.
        source_uri: where the videos came from, without secrets.

    Raises:
        UserError: a shard or a part cannot be read, or the storage cannot be written to.
    """
    rows = read_rows(collection_uri, [shard.path for shard in manifest.shards])
    repeated = set(rows["repeats"].to_pylist())
    page_of: dict[str, str] = {}
    """Of shots that others repeat, which come after them."""
    lines: list[str] = []
    pages: set[str] = set()
    for video in _videos(rows):
        names = _page_names(video)
        pages.update(names)
        lines.append(_index_row(video, names[0]))
        previews = _previews(collection_uri, video)
        for number, name in enumerate(names):
            shots = video.slice(number * _MOST_SHOTS, _MOST_SHOTS)
            page_of |= {shot_id: name for shot_id in shots["shot_id"].to_pylist() if shot_id in repeated}
            content = _video_page(shots, previews, page_of, names, name)
            storage.write_bytes(storage.join(collection_uri, FOLDER, name), content.encode())
    quarantine = read_quarantine(collection_uri).slice(0, _MOST_QUARANTINED).to_pylist()
    index = _index(manifest, source_uri, lines, quarantine)
    storage.write_bytes(storage.join(collection_uri, INDEX), index.encode())
    folder = storage.join(collection_uri, FOLDER)
    storage.delete_many([storage.join(folder, name) for name in storage.list_files(folder) if name not in pages])


def _videos(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield the shots video by video; those of one follow one another."""
    ids = rows["video_id"].to_pylist()
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[start]:
            yield rows.slice(start, end - start)
            start = end


def _page_names(video: pa.Table) -> list[str]:
    video_id = video["video_id"][0].as_py()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", video_id).strip(".-")[-60:]
    name = f"{readable}-{hashlib.sha256(video_id.encode()).hexdigest()[:8]}"
    others = range(2, math.ceil(len(video) / _MOST_SHOTS) + 1)
    return [f"{name}.html", *(f"{name}-{number}.html" for number in others)]


def _previews(collection_uri: str, video: pa.Table) -> Mapping[str, list[bytes]]:
    try:
        return scan_parts.read_previews(collection_uri, video["unit_id"][0].as_py())
    except UserError:  # somebody has deleted the part: its pictures are gone, its shots are not
        return {}


def _index_row(video: pa.Table, page: str) -> str:
    selected = video.filter(video["selected"])
    seconds = pc.sum(pc.subtract(selected["end_s"], selected["start_s"])).as_py() or 0.0
    left_out = pc.value_counts(video.filter(pc.invert(video["selected"]))["reason"]).to_pylist()
    reasons = ", ".join(f"{row['counts']} {row['values']}" for row in sorted(left_out, key=lambda r: -r["counts"]))
    facts = f"{video['width'][0]} x {video['height'][0]}, {video['fps'][0].as_py():.3f} frames/s"
    return (
        f'<tr><td><a href="{FOLDER}/{html.escape(page)}">{html.escape(video["video_id"][0].as_py())}</a>'
        f'<div class="dim">{facts}{", bars cropped" if video["crop_w"][0].as_py() is not None else ""}</div></td>'
        f'<td class="number">{len(video)}</td><td class="number">{len(selected)}</td>'
        f'<td class="number">{seconds / 60:.1f}</td><td>{html.escape(reasons)}</td></tr>'
    )


def _index(manifest: ShotManifest, source_uri: str, lines: list[str], quarantine: list[dict[str, Any]]) -> str:
    reasons = "".join(
        f'<tr><td>{html.escape(reason)}</td><td class="number">{number}</td>'
        f"<td>{html.escape(meaning_of(reason))}</td></tr>"
        for reason, number in manifest.reasons.items()
    )
    rejected = "".join(
        f"<tr><td>{html.escape(row['video_id'] or row['uri'])}</td><td>{html.escape(row['reason'])}</td>"
        f"<td>{html.escape(row['detail'])}</td></tr>"
        for row in quarantine
    )
    body = (
        f"<h1>Shots of {html.escape(source_uri)}</h1>"
        f"<p>{manifest.num_selected} of {manifest.num_shots} shots are selected, {manifest.selected_s / 3600:.2f} "
        f"hours of {manifest.num_videos} videos. Edition {manifest.edition}.</p>"
        '<table><tr><th>video</th><th class="number">shots</th><th class="number">selected</th>'
        '<th class="number">minutes</th><th>not selected</th></tr>' + "".join(lines) + "</table>"
    )
    if reasons:
        head = '<tr><th>reason</th><th class="number">shots</th><th></th></tr>'
        body += f"<h2>Not selected</h2><table>{head}{reasons}</table>"
    if rejected:
        body += f"<h2>Quarantined videos</h2><table><tr><th>video</th><th>reason</th><th></th></tr>{rejected}</table>"
    return _page(f"Shots of {source_uri}", body)


def _video_page(
    shots: pa.Table, previews: Mapping[str, list[bytes]], page_of: Mapping[str, str], names: Sequence[str], name: str
) -> str:
    video_id = shots["video_id"][0].as_py()
    rows = shots.drop_columns(["phashes"]).to_pylist()
    body = "".join(_shot(row, previews.get(row["shot_id"], []), page_of) for row in rows)
    pager = _pager(names, name)
    head = f'<p><a href="../{INDEX}">all videos</a></p><h1>{html.escape(video_id)}</h1>{pager}{_filter(rows)}'
    return _page(video_id, f'{head}<div id="shots">{body}</div>{pager}<script>{_SCRIPT}</script>')


def _pager(names: Sequence[str], name: str) -> str:
    """Return links to a video's pages, of which `name` is shown; nothing where it is the only one."""
    links = [
        f"<b>{number}</b>" if each == name else f'<a href="{html.escape(each)}">{number}</a>'
        for number, each in enumerate(names, 1)
    ]
    return f"<p>page {' '.join(links)}</p>" if len(links) > 1 else ""


def _filter(rows: Sequence[dict[str, Any]]) -> str:
    """Return the choices of what is shown of a page, and in which order."""
    counts = Counter(row["reason"] or _SELECTED for row in rows)
    by_reason = "".join(
        f'<option value="{reason}">{number} {reason}</option>' for reason, number in counts.most_common()
    )
    by_score = "".join(f"<option>{name}</option>" for name in ("reason", *_SHOWN_SCORES))
    return (
        f'<div class="filter">show <select id="show"><option value="">all {len(rows)}</option>{by_reason}</select> '
        f'by <select id="order"><option value="">time</option>{by_score}</select></div>'
    )


def _shot(row: dict[str, Any], pictures: list[bytes], page_of: Mapping[str, str]) -> str:
    images = "".join(
        f'<img loading="lazy" alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
        for picture in pictures
    )
    known = {name: f"{row[name]:.3f}" for name in _SHOWN_SCORES if row[name] is not None}
    scores = " ".join(f"{name} {value}" for name, value in known.items())
    data = "".join(f' data-{name}="{value}"' for name, value in known.items())
    borders = (
        f'<span class="border {row["border_before"]}">{row["border_before"]}</span> to '
        f'<span class="border {row["border_after"]}">{row["border_after"]}</span>'
    )
    repeats = f" of {_link(row['repeats'], page_of)}" if row["reason"] == "repeat" else ""
    reason = f'<div><span class="reason">{html.escape(row["reason"])}</span>{repeats}</div>' if row["reason"] else ""
    tags = "".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in row["tags"] or ())
    return (
        f'<div class="shot{"" if row["selected"] else " left-out"}" id="{html.escape(row["shot_id"])}" '
        f'data-reason="{html.escape(row["reason"] or _SELECTED)}"{data}>'
        f"<div>{images}</div><div>{reason}"
        f'<div class="caption">{html.escape(row["caption"] or "")}</div><div>{tags}</div>'
        f"<div>{borders}</div>"
        f'<div class="dim">{_time(row["start_s"])} to {_time(row["end_s"])}, {row["num_frames"]} frames<br>{scores}'
        "</div></div></div>"
    )


def _link(shot_id: str, page_of: Mapping[str, str]) -> str:
    page = page_of.get(shot_id, "")
    return f'<a class="dim" href="{html.escape(page)}#{quote(shot_id)}">{html.escape(shot_id)}</a>'


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}</body></html>\n'
    )
