"""The metrics that a PromQL expression asks for."""

import re

_TEXT = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`")
_VARIABLE = re.compile(r"\$\{?\w+(?::\w+)?\}?|\[\[\w+\]\]")
_LABELS = re.compile(r"\{[^{}]*\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", re.IGNORECASE)
_WORD = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_COMMENT = re.compile(r"#[^\n]*")
_KEYWORDS = {
    *("by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"),
    *("inf", "nan", "atan2", "start", "end"),
}
_NAMED_IN_LABELS = re.compile(r"__name__\s*=\s*['\"](\w+)['\"]")


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics in an expression; what Grafana puts in place of a variable is none."""
    names = set(_NAMED_IN_LABELS.findall(expression))
    bare = _COMMENT.sub("", _TEXT.sub('""', expression))
    bare = _VARIABLE.sub("1", bare)
    for pattern in (_LABELS, _RANGE, _GROUPING):
        bare = pattern.sub(" ", bare)
    # `sum by (job) (x)`: an aggregation with its grouping taken out is still none.
    bare = re.sub(r"\b[a-z_]+\s+(?=\()", " ", bare) if re.search(r"\b[a-z_]+\s+\(", bare) else bare
    return names | {word for word in _WORD.findall(bare) if word.lower() not in _KEYWORDS}
