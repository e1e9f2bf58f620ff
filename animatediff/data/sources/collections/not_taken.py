"""Files of a source that are no videos and belong to none: counted by kind, so that nothing is left out in silence."""

import posixpath
from collections import Counter

NonVideoFileCounts = Counter[str]
"""Number of files by kind: a suffix such as `.nfo`, or words such as `hidden`."""

HIDDEN = "hidden"
_MOST_KINDS = 12
_MOST_CHARS = 16


def kind_of(name: str) -> str:
    """Return what a file is counted as: its suffix in lower case, or words where it has none or one like a sentence."""
    base = posixpath.basename(name)
    if base.startswith("."):
        return HIDDEN
    suffix = posixpath.splitext(base)[1].lower()
    return suffix if 1 < len(suffix) <= _MOST_CHARS and suffix.isprintable() else "without a suffix"


def describe_counts(not_taken: NonVideoFileCounts) -> str:
    """Return the counts as `12 .nfo, 3 .part`, the most frequent first; empty where everything is taken."""
    kinds = sorted(not_taken.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number} {kind}" for kind, number in kinds[:_MOST_KINDS]]
    others = sum(number for _, number in kinds[_MOST_KINDS:])
    return ", ".join([*shown, f"{others} of {len(kinds) - _MOST_KINDS} other kinds"] if others else shown)
