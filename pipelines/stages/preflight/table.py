"""The table that a preflight ends with."""

from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """What a check found on a node."""

    check: str
    node: str
    text: str
    """What is there, or what is wrong."""
    remedy: str | None = None
    """What mends it; None where nothing is wrong."""


def render(rows: Sequence[Row]) -> str:
    """Return the table: a line for each fault, and one for all nodes on which a check found the same."""
    lines = [("check", "node", "", "found")]
    for check in dict.fromkeys(row.check for row in rows):
        of_check = [row for row in rows if row.check == check]
        fine: dict[str, list[str]] = {}
        for row in of_check:
            if row.remedy is None:
                fine.setdefault(row.text, []).append(row.node)
        for text, nodes in fine.items():
            lines.append((check, nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes", "ok", text))
        lines += [(check, row.node, "FAULT", f"{row.text}; {row.remedy}") for row in of_check if row.remedy]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) for line in lines
    )
