"""A catalog in which each control, each way to begin and each kind of prompt meets each other one, and stands alone."""

import csv
import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

Entry = dict[str, Any]

SHARED = {"width": 32, "height": 16, "num_frames": 3, "num_inference_steps": 2, "strength": 0.8}
STARTS = ("init_image", "init_video", "free_init")
"""Ways to begin a clip, of which each has one."""
_GROUPS = (
    ("rgb", "image", "loop"),
    ("drawing", "by_frame", "lora"),
    ("control_net", "a1111", "checkpoint"),
    ("windows", "second_pass"),
)
"""All else, which goes together."""


def features_of_entries() -> list[tuple[str, ...]]:
    """Return what each entry has: nothing, each thing alone, and some of them so that each two meet."""
    a, b, c, d = _GROUPS
    singles = [name for group in _GROUPS for name in group] + list(STARTS)
    together = [(start, *group) for start in STARTS for group in (a + b, c + d)]
    return [(), *((name,) for name in singles), *together, a + c, a + d, b + c, b + d, *combinations(STARTS, 2)]


def build_entries(files: dict[str, str]) -> list[Entry]:
    """Return the entries, and two more: one with a wrong setting, and one whose picture is not there.

    Args:
        files: by the names of `support_controls.build_controls`, and `lora`, `checkpoint` and `absent`.
    """
    entries = [_entry(number, features, files) for number, features in enumerate(features_of_entries())]
    wrong = {"controls": [{"net": files["rgb"], "pictures": files["one"], "guess_mode": True}]}
    absent = {"controls": [{"net": files["control_net"], "pictures": files["absent"]}]}
    return [
        *entries,
        {"name": "wrong", "prompts": ["a red circle"], **wrong},
        {"name": "absent", "prompts": ["a red circle"], **absent},
    ]


def _entry(number: int, features: Sequence[str], files: dict[str, str]) -> Entry:
    entry: Entry = {"name": f"e{number:02}-{'-'.join(features) or 'plain'}", "prompts": ["a red circle"]}
    text = "a (red:1.3) circle" if "a1111" in features else "a red circle"
    if "a1111" in features:
        entry |= {"prompt_syntax": "a1111", "prompts": [text]}
    if "by_frame" in features:
        entry["prompts"] = [{"prompt": {0: text, 2: "a blue square"}}]
    controls = {
        "rgb": {"net": files["rgb"], "pictures": [files["one"], files["other"]], "frames": [0, -1]},
        "drawing": {"net": files["drawing"], "pictures": files["one"], "preprocess": "scribble"},
        "control_net": {"net": files["control_net"], "video": files["video"], "scale": {0: 1.0, -1: 0.5}, "end": 0.5},
    }
    if chosen := [control for name, control in controls.items() if name in features]:
        entry["controls"] = chosen
    settings: Entry = {
        "image": {
            "images": [{"adapter": files["adapter"], "pictures": files["other"], "mask": files["one"]}],
            "image_encoder": files["image_encoder"],
        },
        "init_image": {"init_image": files["other"]},
        "init_video": {"init_video": files["video"]},
        "free_init": {"free_init": {"iterations": 2}},
        "second_pass": {"second_pass": {"scale": 2.0}},
        "windows": {"context": {"length": 2, "overlap": 1}},
        "loop": {"loop": True},
        "lora": {"loras": [{"path": files["lora"], "scale": 0.5}]},
        "checkpoint": {"checkpoint": files["checkpoint"]},
    }
    for name in features:
        entry |= settings.get(name, {})
    return entry


def write_catalogs(folder: Path, shared: Entry, entries: Sequence[Entry]) -> dict[str, str]:
    """Write one catalog in YAML, and with a table of entries in CSV and in JSONL; their paths by format."""
    (folder / "entries.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    with (folder / "entries.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in entry.items()} for entry in entries)
    paths = {}
    for name, content in (
        ("yaml", {"entries": list(entries)}),
        ("jsonl", {"entries_uri": "entries.jsonl"}),
        ("csv", {"entries_uri": "entries.csv"}),
    ):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**shared, **content}))
        paths[name] = str(path)
    return paths


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def pairs(features: Iterable[Sequence[str]]) -> set[frozenset[str]]:
    """Return all that meet in one of the entries."""
    return {frozenset(pair) for each in features for pair in combinations(each, 2)}
