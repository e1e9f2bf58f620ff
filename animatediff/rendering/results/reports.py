"""What people look at after, and during, an animate job: the table of all results and the gallery."""

from collections import Counter
from collections.abc import Iterable, Iterator

from animatediff import storage
from animatediff.rendering.results.gallery import gallery_html
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import write_table

GALLERY = "index.html"
# A page of more is slow to open; the table has all.
_MAX_SHOWN = 20_000


def write_reports(output_uri: str, results: Iterable[Result]) -> Counter[str]:
    """Write `results.parquet` and `index.html`.

    Args:
        output_uri: the folder with the clips.
        results: in the order to show; they are not held beyond what the gallery shows.

    Returns:
        The number of results by status.
    """
    shown: list[Result] = []
    counts: Counter[str] = Counter()

    def seen() -> Iterator[Result]:
        for result in results:
            counts[result.status] += 1
            if len(shown) < _MAX_SHOWN:
                shown.append(result)
            yield result

    write_table(output_uri, seen())
    page = gallery_html(shown)
    storage.write_bytes(storage.join(output_uri, GALLERY), page.encode())
    return counts
