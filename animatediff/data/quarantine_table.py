"""The quarantine as a table: its columns, and what is told of its rows.

Apart from `quarantine`, because processes that decode reject videos, and write no table.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from animatediff.data.quarantine import Rejection

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("unit_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("bytes", pa.int64()),
        ("src_sha256", pa.string()),
    ]
)


def to_table(rejections: Iterable[Rejection]) -> pa.Table:
    """Return the quarantine rows as a table."""
    rows = [asdict(rejection) | {"reason": rejection.reason.value} for rejection in rejections]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def examples(table: pa.Table) -> list[str]:
    """Return a line for each reason, most frequent first: how many rows have it, and the first of them."""
    lines = []
    for reason, number in count_reasons(table).items():
        row = table.slice(pc.index(table["reason"], reason).as_py(), 1).to_pylist()[0]
        lines.append(f"{number} {reason}, first {row['video_id'] or row['uri']}: {row['detail']}")
    return lines


def count_reasons(table: pa.Table) -> dict[str, int]:
    """Return the number of rows by reason, most frequent first."""
    return dict(Counter(table["reason"].to_pylist()).most_common())
