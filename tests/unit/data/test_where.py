import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.data.where import parse
from animatediff.errors import UserError

TABLE = pa.table(
    {
        "motion": pa.array([0.0, 0.02, 0.5, None, math.nan], pa.float32()),
        "window": pa.array([0, 1, 2, 3, None], pa.int32()),
        "static": pa.array([True, False, None, False, False]),
        "caption": pa.array(["a red disc", "b", None, "d", ""]),
    }
)


def rows(text, table=TABLE):
    return np.flatnonzero(parse(text, table.column_names).mask(table)).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("motion > 0.01", [1, 2]),
        ("motion >= 0.02", [1, 2]),  # stored in 32 bits, where 0.02 is less than 0.02 in 64
        ("0.01 < motion < 0.1", [1]),
        ("0.1 > motion", [0, 1]),
        ("motion == 0", [0]),
        ("motion > -1", [0, 1, 2]),
        ("motion != 0", [1, 2]),
        ("static", [0]),
        ("not static", [1, 3, 4]),
        ("static == false", [1, 3, 4]),
        ("static != True", [1, 3, 4]),
        ("not motion > 0.01", [0]),
        ("not (motion > 0.01 and static)", [0, 1, 3, 4]),
        ("window in [0, 2, 7]", [0, 2]),
        ("window not in (0, 2)", [1, 3]),
        ("not window in [0, 2]", [1, 3]),
        ("motion in [0.02]", [1]),
        ("window >= 1.5", [2, 3]),
        ("window > motion", [1, 2]),
        ("caption == 'b' or caption in [\"d\"]", [1, 3]),
        ("motion > 0.1 or window == 3", [2, 3]),
        ("window == 0 or window == 1 and not static", [0, 1]),
        ("(window == 0 or window == 1) and not static", [1]),
        (" motion > 0.01 ", [1, 2]),
        ("true", [0, 1, 2, 3, 4]),
        ("False", []),
        ("static or true", [0, 1, 2, 3, 4]),
    ],
)
def test_selects(text, expected):
    assert rows(text) == expected


def test_says_which_columns_it_needs():
    where = parse("motion > 0.1 and not static", ["motion", "static", "cut"])
    assert where.columns == {"motion", "static"}
    with pytest.raises(UserError, match="no column 'static'"):
        where.mask(TABLE.select(["motion"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motoin > 1", "no column 'motoin', did you mean 'motion'"),
        ("zzz > 1", "there are caption, motion, static, window"),
        ("motion >", "invalid syntax"),
        ("motion = 1", "invalid syntax"),
        ("motion > 0.1 && static", "invalid syntax"),
        ("", "invalid syntax"),
        ("motion + 1 > 2", "'motion \\+ 1' is not understood"),
        ("__import__('os').system('true')", "is no condition"),
        ("motion > max(1, 2)", "'max\\(1, 2\\)' is not understood"),
        ("caption.x == 1", "'caption.x' is not understood"),
        ("caption[0] == 'a'", "is not understood"),
        ("[x for x in caption]", "is no condition"),
        ("(lambda: true)", "is no condition"),
        ("motion if static else static", "is no condition"),
        ("f'{motion}' == 'a'", "is not understood"),
        ("(motion := 1) > 0", "is not understood"),
        ("motion is static", "compare with"),
        ("'a' in caption", "column in \\[1, 2, 3\\]"),
        ("true in [1]", "column in \\[1, 2, 3\\]"),
        ("window in [motion]", "is not understood"),
        ("(motion > 1) > 2", "is not understood"),
        ("1 < 2", "names no column"),
        ("true < 3", "names no column"),
        ("1", "alone is no condition"),
        ("3j < motion", "is not understood"),
        ("motion\x00", "null bytes"),
        ("not " * 100_000 + "static", "where"),
        ("(" * 300 + "static" + ")" * 300, "where"),
    ],
)
def test_refuses_when_read(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(text, TABLE.column_names)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motion", "is float, not true or false"),
        ("not caption", "is string, not true or false"),
        ("motion == 'a'", "different types"),
        ("caption > 1", "different types"),
        ("static > 0.5", "different types"),
        ("window in ['a']", "different types"),
        (f"window > {10**30}", "different types"),
    ],
)
def test_refuses_wrong_types(text, message):
    with pytest.raises(UserError, match=message):
        rows(text)


def test_works_on_chunks_and_on_no_rows():
    assert rows("motion > 0.01", pa.concat_tables([TABLE, TABLE])) == [1, 2, 6, 7]
    assert rows("motion > 0.01 and not static", TABLE.slice(0, 0)) == []


VALUE = st.one_of(st.none(), st.integers(-3, 3))
LEAF = st.builds("{} {} {}".format, st.sampled_from("ab"), st.sampled_from(["<", "<=", "==", "!="]), st.integers(-3, 3))
CONDITION = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(condition=CONDITION, a=VALUE, b=VALUE)
def test_without_nulls_it_means_what_python_means_and_nulls_never_select_both_ways(condition, a, b):
    table = pa.table({"a": pa.array([a], pa.int64()), "b": pa.array([b], pa.int64())})
    chosen, refused = rows(condition, table) == [0], rows(f"not ({condition})", table) == [0]
    assert not (chosen and refused)
    if a is not None and b is not None:
        assert chosen == eval(condition, {"a": a, "b": b})
        assert chosen != refused
