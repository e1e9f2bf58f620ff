"""Which shots of a collection are taken, and why the others are not."""

import hashlib
import math
from collections import defaultdict
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, Field

from animatediff.config import Config
from animatediff.data.curation.repeats import count_unlike, find_repeats
from animatediff.data.curation.shot_table import SCHEMA
from animatediff.data.curation.source_copies import NOT_COPIED
from animatediff.data.quarantine import Reason
from animatediff.data.scoring.columns import condition
from animatediff.data.shots.shot import DAMAGED

REASONS = {
    "too_short": "shorter than a shot may be",
    "blank": "most of it is of one colour, or black",
    "static": "nothing moves in it",
    "where": "outside of what is selected",
    "text": "a title or credits",
    "repeat": "it repeats an earlier shot",
    "cap": "its video has given enough",
}
"""Why a shot is not taken, in the order in which it is asked: each shot has the first that holds."""

_DECIDED_ELSEWHERE = {
    "size_changes": "its frames have another size than most of its video's",
    DAMAGED: "its frames are damaged in the file, or do not decode",
    NOT_COPIED: "its frames cannot be cut out of its video",
    Reason.DECODER_CRASH: "the process that was to cut it out of its video died, three times",
    Reason.DECODER_HANG: "cutting it out of its video took longer than scan.timeout_s, twice",
    Reason.OUT_OF_MEMORY: "cutting it out of its video took more than scan.memory_mb",
    "repeated_caption": "its caption stands at too many shots that look otherwise (select.max_same_caption): ask "
    "another model or prompt, with recaption: all",
}


def meaning_of(reason: str) -> str:
    """Return in words why a shot with a reason is left out, whoever gave it."""
    if reason.startswith("caption_"):
        return "what was answered is no caption; recaption: failed asks again"
    return REASONS.get(reason) or _DECIDED_ELSEWHERE.get(reason, "")


_DECIDED_HERE = {"phashes", "repeats", "selected", "reason", "caption", "tags", "caption_model", "num_bytes", "video"}
WHERE_COLUMNS = tuple(name for name in SCHEMA.names if name not in _DECIDED_HERE)
"""Columns of the shot table that a condition may use."""

_LEAST_SAME_CAPTION = 3
"""Unlike shots that may share a caption in the smallest of collections."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def _readable(where: str) -> str:
    condition(where, WHERE_COLUMNS).mask(
        SCHEMA.empty_table()
    )  # types, too, are wrong before the scan rather than after
    return where


class SelectConfig(Config):
    """Which shots are taken."""

    where: Annotated[str, AfterValidator(_readable)] = "not static and not blank"
    """Condition on the shots' columns, or `web` or `anime`, as ingest has them. `true` takes all."""
    max_text: float = Field(0.5, ge=0, le=1)
    """Shots with as much written or more are left out: titles and credits from 0.5. 1 takes all but pure writing."""
    drop_repeats: bool = True
    """Take once what is there several times: openings, endings, recaps, and footage that one video shows twice, unless
    hardly anything moves in it."""
    max_shots_per_video: int | None = Field(None, ge=1)
    """Most shots of one video, spread over it."""
    max_s_per_video: float | None = Field(None, gt=0)
    """Most seconds of one video, spread over it."""
    max_same_caption: float = Field(0.01, ge=0, le=1)
    """Share of the captioned shots that may have one caption, word for word, though they do not look alike; three in
    any case. More are left out: the model says what fits everything. A function's words are not judged."""
    seed: int = Field(0, ge=0)
    """Another one takes other shots of a video that has too many."""


def select(shots: pa.Table, config: SelectConfig) -> pa.Table:
    """Return the shots with `repeats`, `selected` and `reason` filled in.

    What is decided of a video depends on it and those before it: adding videos at the end changes nothing before.

    Args:
        shots: rows of `shot_table.SCHEMA` in the order of the plan, all shots of a video together; `reason` is what
            the scan says (`too_short`), empty or null for nothing.
        config: what is wanted.
    """
    reasons = np.asarray(pc.fill_null(shots["reason"], "").to_pylist(), object)
    for reason, holds in _told_by_itself(shots, config).items():
        reasons[(reasons == "") & holds] = reason
    candidates = pa.array(reasons == "")
    hashes = pc.if_else(candidates, shots["phashes"].combine_chunks(), pa.scalar(None, shots["phashes"].type))
    repeats = find_repeats(shots["shot_id"], shots["video_id"], hashes)
    if config.drop_repeats:
        reasons[np.asarray(pc.not_equal(repeats, ""))] = "repeat"
    reasons[(reasons == "") & _over_caps(shots, reasons == "", config)] = "cap"
    columns = {"repeats": repeats, "selected": pa.array(reasons == ""), "reason": pa.array(reasons, pa.string())}
    for name, column in columns.items():
        shots = shots.set_column(shots.schema.get_field_index(name), SCHEMA.field(name), column)
    return shots


def _told_by_itself(shots: pa.Table, config: SelectConfig) -> dict[str, np.ndarray]:
    """(n,) bool by reason, of what each shot alone tells."""
    where = condition(config.where, WHERE_COLUMNS)
    taken = where.mask(shots)
    # A shot that would be taken if only it moved, and showed something, is not taken for that.
    lively = shots
    for name in ("static", "blank"):
        lively = lively.set_column(lively.schema.get_field_index(name), name, pa.array(np.zeros(len(shots), bool)))
    lifeless = ~taken & where.mask(lively)
    blank = np.asarray(pc.fill_null(shots["blank"], False))
    return {
        "blank": lifeless & blank,
        "static": lifeless & ~blank,
        "where": ~taken,
        "text": np.asarray(pc.fill_null(pc.greater_equal(shots["text"], config.max_text), False)),
    }


def _over_caps(shots: pa.Table, candidates: np.ndarray, config: SelectConfig) -> np.ndarray:
    """(n,) bool: candidates for which their video has no room."""
    over = np.zeros(len(shots), bool)
    if config.max_shots_per_video is None and config.max_s_per_video is None:
        return over
    starts, ends = (np.asarray(shots[name], float) for name in ("start_s", "end_s"))
    names = shots["video_id"].combine_chunks().dictionary_encode()
    places = np.flatnonzero(candidates)
    places = places[np.argsort(np.asarray(names.indices)[places], kind="stable")]
    videos, firsts = np.unique(np.asarray(names.indices)[places], return_index=True)
    for video, rows in zip(videos, np.split(places, firsts)[1:], strict=True):
        offset = _offset(config.seed, names.dictionary[int(video)].as_py())
        over[rows[~_within_caps(starts[rows], ends[rows], offset, config)]] = True
    return over


def _offset(seed: int, video_id: str) -> float:
    """(seed, video) -> a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{video_id}".encode()).digest()[:6]) / 2**48


def _within_caps(starts: np.ndarray, ends: np.ndarray, offset: float, config: SelectConfig) -> np.ndarray:
    """(n,) bool: the shots of a video that are taken.

    Of a sequence of times that is spread evenly, wherever it ends, each takes the shot nearest to it that is left.
    """
    num = len(starts) if config.max_shots_per_video is None else config.max_shots_per_video
    seconds = math.inf if config.max_s_per_video is None else config.max_s_per_video
    middles = (starts + ends) / 2
    left, taken = np.ones(len(starts), bool), np.zeros(len(starts), bool)
    for step in range(len(starts)):
        if taken.sum() == num:
            break
        time = starts[0] + (offset + step * _GOLDEN) % 1 * (ends[-1] - starts[0])
        nearest = int(np.argmin(np.where(left, np.abs(middles - time), np.inf)))
        left[nearest] = False
        if ends[nearest] - starts[nearest] <= seconds:
            taken[nearest] = True
            seconds -= ends[nearest] - starts[nearest]
    return taken


def without_repeated_captions(rows: pa.Table, most: float) -> pa.Table:
    """Return shots with those not selected whose caption stands word for word at too many that look otherwise.

    Shots of one scene that look alike, and the pieces of a long one, count once.

    Args:
        rows: the shots, with captions.
        most: share of the captioned shots that may have one caption.
    """
    captions, selected = rows["caption"].to_pylist(), rows["selected"].to_pylist()
    places = defaultdict(list)
    for place, (caption, is_selected) in enumerate(zip(captions, selected, strict=True)):
        if caption and is_selected:
            places[caption.casefold()].append(place)
    bound = max(_LEAST_SAME_CAPTION, int(most * sum(map(len, places.values()))))
    reasons = np.asarray(rows["reason"].to_pylist(), object)
    for same in places.values():
        if len(same) > bound and count_unlike(rows["phashes"].take(same), bound + 1) > bound:
            reasons[same] = "repeated_caption"
    is_left_out = reasons == "repeated_caption"
    columns = {
        "selected": pa.array(np.asarray(selected, bool) & ~is_left_out),
        "reason": pa.array(reasons, pa.string()),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), SCHEMA.field(name), column)
    return rows
