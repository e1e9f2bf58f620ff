"""What an error's text may be: one line that every log, table and page can hold, whoever wrote what it quotes."""

import pickle

import pytest

from animatediff.errors import UsageError, UserError, any_error_as_user_error, errors_with_field, one_line

QUOTED = {
    "megabytes": "x" * 3_000_000,
    "half a character": "a\ud800b",
    "lines": "one\r\ntwo",
    "a terminal's words": "\x1b[2J\x9b31m",
    "the end of a text": "a\0b",
}


class PanicError(BaseException):
    """As libraries in Rust raise."""


@pytest.mark.parametrize("row", QUOTED)
@pytest.mark.parametrize("kind", [UserError, UsageError])
def test_a_text_is_one_line_that_can_be_written(kind, row):
    error = kind(f"file.bin has the name {QUOTED[row]}: take another")
    for text in (str(error), str(pickle.loads(pickle.dumps(error)))):
        assert text.startswith("file.bin has the name")
        assert text.endswith(": take another")
        assert len(text.encode()) <= 8100
        assert text.isprintable()


@pytest.mark.parametrize(
    "raised",
    [ValueError("no"), KeyError("a"), MemoryError(), RecursionError("deep"), PanicError("unwrap"), AssertionError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_library_raises_is_the_users_error(raised):
    with (
        pytest.raises(UserError, match="^cannot read a.bin: .") as caught,
        any_error_as_user_error("cannot read a.bin"),
    ):
        raise raised
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), UsageError("x is not y")])
def test_what_ends_the_process_and_what_is_told_already_passes(raised):
    with pytest.raises(type(raised)) as caught, any_error_as_user_error("cannot read a.bin"):
        raise raised
    assert caught.value is raised


def test_a_field_is_named_and_an_error_without_words_is_its_kind():
    with pytest.raises(UsageError, match="^base: no"), errors_with_field("base"):
        raise UsageError("no")
    assert one_line(KeyError()) == "KeyError"
