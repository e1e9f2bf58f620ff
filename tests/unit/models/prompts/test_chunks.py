"""How a long prompt's tokens fall into chunks: token 0 is the comma."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.models.prompts.chunks import TokenGroup, cut_into_chunks

COMMA = 0


def chunks(*sections, room=75):
    """Sections of tokens, or of lists of tokens that are learned words."""
    units = [
        [TokenGroup([token] if isinstance(token, int) else token, 1.0) for token in section] for section in sections
    ]
    return [chunk.ids for chunk in cut_into_chunks(units, room, COMMA)]


def words(first, number):
    return list(range(first, first + number))


def test_a_chunk_is_filled_up():
    assert chunks([]) == [[]]
    assert chunks(words(1, 75)) == [words(1, 75)]
    assert chunks(words(1, 151)) == [words(1, 75), words(76, 75), [151]]


@pytest.mark.parametrize("behind", [0, 1, 19])
def test_what_is_behind_a_near_comma_moves_on(behind):
    head = [*words(1, 74 - behind), COMMA]
    assert chunks([*head, *words(200, behind + 3)]) == [head, words(200, behind + 3)]


def test_a_far_comma_moves_nothing():
    head = [*words(1, 54), COMMA]
    assert chunks([*head, *words(200, 22)]) == [[*head, *words(200, 20)], [220, 221]]


def test_a_comma_beyond_the_last_place_begins_the_next_chunk():
    # A1111's own: the words before it stay.
    assert chunks([*words(1, 70), COMMA, *words(80, 4), COMMA, 99]) == [
        [*words(1, 70), COMMA, *words(80, 4)],
        [COMMA, 99],
    ]


def test_each_chunk_looks_for_its_own_commas():
    assert chunks([*words(1, 74), COMMA, *words(200, 75), 300]) == [[*words(1, 74), COMMA], words(200, 75), [300]]


def test_a_section_begins_a_chunk():
    assert chunks([1], [2]) == [[1], [2]]
    assert chunks([], [2], []) == [[], [2]]
    assert chunks([1], [], [2]) == [[1], [], [2]]
    assert chunks([], []) == [[]]
    assert chunks(words(1, 75), [2]) == [words(1, 75), [2]]


def test_a_learned_word_that_does_not_fit_begins_the_next_chunk():
    assert chunks([*words(1, 73), [-1, -2], 9]) == [[*words(1, 73), -1, -2], [9]]
    assert chunks([*words(1, 74), [-1, -2], 9]) == [words(1, 74), [-1, -2, 9]]


def test_a_learned_word_moves_on_as_a_whole():
    assert chunks([*words(1, 70), COMMA, 8, [-1, -2, -3], 9]) == [[*words(1, 70), COMMA], [8, -1, -2, -3, 9]]


def test_a_learned_word_longer_than_a_chunk_is_parted():
    long = [-1 - k for k in range(12)]
    assert chunks([1, long, 2], room=5) == [[1], long[:5], long[5:10], [*long[10:], 2]]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), max_size=60), min_size=1, max_size=4),
    st.integers(1, 30),
)
def test_no_token_is_lost_and_none_is_in_excess(sections, room):
    units = [[TokenGroup([token] * number, 1.0 + token) for token, number in section] for section in sections]
    found = cut_into_chunks(units, room, COMMA)
    assert all(len(chunk.ids) == len(chunk.weights) <= room for chunk in found)
    pairs = [(i, 1.0 + i) for section in units for unit in section for i in unit.ids]
    assert [pair for chunk in found for pair in zip(chunk.ids, chunk.weights, strict=True)] == pairs
    assert len(found) >= len(sections) - 1
