"""A1111's grammar: what the marks mean, and that nothing of the text is lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.models.prompts.a1111_syntax import escaped, parse
from animatediff.models.prompts.pieces import joined

UP, DOWN = 1.1, 1 / 1.1


def pieces(prompt):
    return [[(piece.text, pytest.approx(piece.weight)) for piece in section] for section in parse(prompt)]


# The first eleven are the examples that A1111's own parser documents, or follow from them.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [[("normal text", 1)]]),
        ("an (important) word", [[("an ", 1), ("important", UP), (" word", 1)]]),
        ("(unbalanced", [[("unbalanced", UP)]]),
        (r"\(literal\]", [[("(literal]", 1)]]),
        ("(unnecessary)(parens)", [[("unnecessaryparens", UP)]]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                [
                    ("a ", 1),
                    ("house", 1.3 * UP**2),
                    (" ", UP),
                    ("on", 1),
                    (" a ", UP),
                    ("hill", 0.5 * UP),
                    (", sun, ", UP),
                    ("sky", UP**4),
                    (".", UP),
                ]
            ],
        ),
        ("", [[]]),
        ("a)b]", [[("a)b]", 1)]]),
        ("a:1.3)", [[("a:1.3)", 1)]]),
        ("[a:1.3]", [[("a:1.3", DOWN)]]),
        (r"a\\b \c", [[("a\\b c", 1)]]),
        ("(a:b: -.5 )", [[("a:b", -0.5)]]),
        ("(a:1.2.3)", [[("a:1.2.3", UP)]]),
        ("[(a:1.5) b", [[("a", 1.5 * DOWN), (" b", DOWN)]]),
        ("([a)b]", [[("a", 1), ("b", DOWN)]]),
        ("[[a]]", [[("a", DOWN**2)]]),
        ("()a[]", [[("a", 1)]]),
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("(a BREAK b:2) c", [[("a", 2)], [("b", 2), (" c", 1)]]),
        ("BREAK a BREAKBREAK\nBREAK", [[], [("a BREAKBREAK", 1)], []]),
        ("a BREAK BREAK b", [[("a", 1)], [], [("b", 1)]]),
        ("break, Break", [[("break, Break", 1)]]),
    ],
)
def test_marks(prompt, expected):
    assert pieces(prompt) == expected


def balanced(leaves):
    """Prompts with what they say: [(text, weight)]."""

    def stronger(inner):
        prompt, weighted = inner
        return f"({prompt})", [(text, weight * UP) for text, weight in weighted]

    def weaker(inner):
        prompt, weighted = inner
        return f"[{prompt}]", [(text, weight * DOWN) for text, weight in weighted]

    def by(inner, factor):
        prompt, weighted = inner
        return f"({prompt}:{factor})", [(text, weight * factor) for text, weight in weighted]

    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(stronger),
            inner.map(weaker),
            st.builds(by, inner, st.sampled_from([0.0, 0.5, 1.3, -2.0, 3])),
            st.lists(inner, max_size=4).map(
                lambda parts: ("".join(part for part, _ in parts), [pair for _, said in parts for pair in said])
            ),
        ),
        max_leaves=12,
    )


WORDS = st.text(alphabet="ab c,.1é|<>{}", max_size=5)
MARKS = st.sampled_from([*"ab :1.5()[]|\\\n", "BREAK", " AND ", "<lora:a:1>", "<"])
ANY = st.lists(MARKS, max_size=20).map("".join)


@given(balanced(WORDS.map(lambda text: (text, [(text, 1.0)]))))
def test_text_is_kept_and_factors_multiply(case):
    prompt, said = case
    (found,) = parse(prompt)
    letters = [(letter, weight) for text, weight in said for letter in text]
    assert [letter for piece in found for letter in piece.text] == [letter for letter, _ in letters]
    weights = [piece.weight for piece in found for _ in piece.text]
    assert weights == pytest.approx([weight for _, weight in letters])


@given(ANY)
def test_whatever_is_written_is_read(prompt):
    sections = parse(prompt)
    assert sections
    for section in sections:
        assert all(piece.text and math.isfinite(piece.weight) for piece in section)
    letters = iter(prompt)
    assert all(letter in letters for section in sections for letter in joined([section]))  # in their order


@given(ANY, ANY)
def test_what_is_unbalanced_runs_to_the_end_and_no_farther_back(before, words):
    text = escaped(before).replace("\n", " ")
    first, *others = parse(f"{text}(x")
    assert not others
    assert first[-1] == ("x", pytest.approx(UP))
    assert all(piece.weight == 1 for piece in first[:-1])


@given(ANY)
def test_what_is_escaped_is_itself(text):
    assert [joined([section]) for section in parse(escaped(text))] == [text]
    assert all(piece.weight == 1 for section in parse(escaped(text)) for piece in section)


def test_many_marks_are_read_in_one_pass():
    """With a pass for each bracket it would take many minutes."""
    number = 50_000
    assert parse("(a" * number + ":1)" * number) == [[("a" * number, 1)]]
