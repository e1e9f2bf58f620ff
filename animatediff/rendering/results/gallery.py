"""One static HTML page that shows all clips of a catalog; it needs nothing but the clips beside it.

The page is in `page/`: its skeleton, style and scripts, which are put into one file together with the items as JSON, as
a page opened from disk may not fetch. The scripts draw only what is on the screen.
"""

import html
import json
import math
import os.path
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote

from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.results.result import Result

# In the order in which they build on each other.
_SCRIPTS = ("items.js", "state.js", "playing.js", "rows.js", "views.js", "detail.js", "main.js")


def gallery_html(results: Sequence[Result], *, title: str = "Catalog") -> str:
    """Return the page, with links relative to the folder that it is written to.

    Args:
        results: in the order to show; their files are paths relative to the page.
        title: its heading.
    """
    page = resources.files("animatediff.rendering.results") / "page"
    parts = {
        "title": html.escape(title),
        "style": _text(page / "page.css"),
        "script": "".join(_text(page / name) for name in _SCRIPTS),
        "data": _json_for_html(_data(results)),
    }
    # In one pass: what is put in may itself look like a place.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _text(page / "page.html"))


def _text(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")


class _Distinct:
    """Values that many items share: kept once, and named by their place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.values: list[Any] = []

    def place(self, value: Any) -> int:
        key = value if isinstance(value, str) else json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def _data(results: Sequence[Result]) -> dict[str, Any]:
    """Return the items as columns; a column in `shared` holds places in the list of that name."""
    shared = {name: _Distinct() for name in ("entry", "prompt", "settings", "origin", "note", "kinds")}
    stages = list(dict.fromkeys(name for result in results for name in result.seconds))
    scores = list(dict.fromkeys(each for result in results for each in _scores(result)))
    rows = []
    for result in results:
        places = {name: shared[name].place(value) for name, value in _shared_values(result).items()}
        stem, suffixes = _split_paths(list(result.files.values()))
        found = _scores(result)
        rows.append(
            places
            | {
                "kinds": shared["kinds"].place(dict(zip(result.files, suffixes, strict=True))),
                "stem": stem,
                "digest": result.digest,
                "seed": str(result.seed),  # JavaScript's numbers end at 2**53
                "status": result.status,
                "attempts": result.attempts,
                "seconds": [_rounded(result.seconds.get(name)) for name in stages],
                "scores": [_rounded(found.get(each)) for each in scores],
                "sha256": [result.sha256.get(kind, "") for kind in result.files],
            }
        )
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    texts = {name: distinct.values for name, distinct in shared.items()}
    labels = [{"scorer": scorer, "name": name} for scorer, name in scores]
    return {"stages": stages, "scores": labels, "shared": texts, "items": columns}


def _scores(result: Result) -> dict[tuple[str, str], float]:
    """Return all scores of a clip by scorer and name."""
    return {(scorer, name): value for scorer, found in result.scores.items() for name, value in found.items()}


def _shared_values(result: Result) -> dict[str, Any]:
    notes = {
        "error": result.error,
        "warning": result.warning,
        "scores": "; ".join(f"No scores by {scorer}: {why}" for scorer, why in result.score_errors.items()),
    }
    return {
        "entry": result.entry,
        "prompt": result.prompt,
        "settings": _settings(result),
        "origin": {"weights": result.model_hashes, "versions": result.versions},
        "note": {name: text for name, text in notes.items() if text},
    }


def _settings(result: Result) -> dict[str, Any]:
    """Return what the page says of a clip's settings: the size is that of its files."""
    fields = set(RenderSettings.model_fields)
    if result.init_image is None and result.init_video is None:
        fields.remove("strength")  # it is that of pictures to begin from
    size = {"width": result.output_width, "height": result.output_height}
    return result.model_dump(mode="json", include=fields) | size


def _split_paths(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return what a clip's paths begin with, and what follows in each: the latter are the same for most clips.

    URL-quoted.
    """
    stem = os.path.commonprefix(paths)  # noqa: RUF071 - of characters: `clips/1a2b.` of an MP4 and its poster
    return quote(stem), [quote(path.removeprefix(stem)) for path in paths]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _json_for_html(data: Any) -> str:
    """JSON that no parser of HTML takes for the end of its element; a NaN, which would blank the page, is null."""
    try:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(data), ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _without_nan(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
