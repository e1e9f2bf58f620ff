from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import Field

from animatediff.config import Config, differing_fields, dump, load, parse
from animatediff.errors import UsageError


class Optim(Config):
    lr: float = Field(1e-4, gt=0)
    """Learning rate."""


class Share(Config):
    start: float
    """Begins."""
    end: float = 1.0
    """Ends."""


class Distil(Config):
    num_steps: int = 8
    """Steps."""
    guided: Share | None = None
    """Of them."""


class Captioned(Config):
    name: str = "a"
    """Run."""
    distil: Distil | None = None
    """Few steps."""
    captions: Share | None = None
    """Texts."""


class Run(Config):
    name: str
    """Run."""
    optim: Optim = Optim()
    num_workers: int | tuple[int, int] = 1
    """Workers."""


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_command_line_beats_file_beats_defaults(tmp_path):
    uri = write(tmp_path, "name: a\noptim: {lr: 1e-5}\n")
    assert load(Run, uri) == Run(name="a", optim=Optim(lr=1e-5))
    config = parse(Run, ["--config", uri, "--optim.lr", "3e-4", "--num-workers", "2", "4"])
    assert config == Run(name="a", optim=Optim(lr=3e-4), num_workers=(2, 4))
    assert parse(Run, ["--name", "b"]) == Run(name="b")
    assert parse(Run, [], default_uri=uri).name == "a"
    assert load(Run, write(tmp_path, dump(config))) == config


def test_flags_give_sections_that_neither_file_nor_defaults_have(tmp_path, capsys):
    uri = write(tmp_path, "distil: {num_steps: 4}\n")
    assert parse(Captioned, ["--name", "b"]) == Captioned(name="b")
    assert parse(Captioned, ["--distil.num-steps", "6"]) == Captioned(distil=Distil(num_steps=6))
    guided = Captioned(distil=Distil(num_steps=4, guided=Share(start=0.5)))
    assert parse(Captioned, ["--config", uri, "--distil.guided.start", "0.5"]) == guided
    assert parse(Captioned, [f"--config={uri}", "--distil.guided.start=0.5"]) == guided
    dumped = parse(Captioned, ["--config", uri, "--captions.start", "0"]).model_dump(exclude_unset=True)
    assert dumped == {"distil": {"num_steps": 4}, "captions": {"start": 0}}
    with pytest.raises(SystemExit) as exit_:
        parse(Captioned, ["--captions.end", "0.5"])
    assert exit_.value.code == 2
    assert "--captions.start" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        parse(Captioned, ["--help"])
    assert exit_.value.code == 0
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--distil.num-steps", "--distil.guided.start", "--captions.end"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\noptim: {lrr: 1}", "unknown field 'optim.lrr', did you mean 'optim.lr'"),
        ("name: a\nzzz: 1", "unknown field 'zzz', known here: name, optim, num_workers"),
        # Told once: what is known, and a field that is missing since its name is written wrong.
        ("name: a\nzzz: 1\nqqq: 2", "yaml: unknown fields 'zzz', 'qqq', known here: name, optim, num_workers$"),
        ("namee: a", "yaml: unknown field 'namee', did you mean 'name'\\?$"),
        ("name: a\nlr: 1", "unknown field 'lr', did you mean 'optim.lr'"),
        ("name: a\noptim: {lr: -1}", r"optim.lr: .*greater than 0 \(got -1\)"),
        ("optim: {}", "name: Field required"),
        ("- a", "must hold a YAML mapping, not list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_file_errors_are_one_line(tmp_path, text, says):
    with pytest.raises(UsageError, match=says) as caught:
        load(Run, write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_of_another_kind_is_told_as_that(tmp_path):
    others = {"a config of baking": ("oven", "dough"), "a config of the run": Run.model_fields}
    for text, says in (
        ("oven: 1\ndough: 2\n", "looks like a config of baking$"),
        ("oven: 1\ndough: 2\nname: a\n", "looks like a config of baking$"),
        ("oven: 1\nname: a\n", "unknown field 'oven'"),  # as likely a mistake in a file of this kind
        ("nonsense: 1\n", "unknown field 'nonsense'"),
    ):
        with pytest.raises(UsageError, match=says) as caught:
            parse(Run, ["--config", write(tmp_path, text)], others=others)
        assert str(caught.value).count("run.yaml") == 1
    assert parse(Run, ["--config", write(tmp_path, "name: a")], others=others) == Run(name="a")


class Reason(StrEnum):
    NOT_FOUND = "not_found"
    EMPTY = "empty"


class Retry(Config):
    reasons: tuple[Reason, ...] = ()


def test_choices_have_the_same_names_in_files_and_flags(tmp_path):
    (tmp_path / "run.yaml").write_text("reasons: [not_found, empty]")
    from_file = load(Retry, str(tmp_path / "run.yaml"))
    assert parse(Retry, ["--reasons", "not_found", "empty"]) == from_file
    assert from_file.reasons == (Reason.NOT_FOUND, Reason.EMPTY)


def test_a_key_that_is_given_twice_is_refused_with_its_line(tmp_path):
    text = "name: a\noptim: &o {lr: 0.1}\n"
    assert load(Run, write(tmp_path, text)).name == "a"
    for twice, key in ((text + "name: b\n", "line 3: 'name'"), ("name: a\noptim:\n  lr: 1\n  lr: 2\n", "line 4: 'lr'")):
        with pytest.raises(UsageError, match=f"is not valid YAML: {key} is given more than once"):
            load(Run, write(tmp_path, twice))


def test_command_line_errors(tmp_path, capsys):
    with pytest.raises(UsageError, match="there is no file .*absent.yaml"):
        parse(Run, ["--config", str(tmp_path / "absent.yaml")])
    with pytest.raises(UsageError, match="--config needs a file"):
        parse(Run, ["--config"])
    for flag, value, says in (("--optim.lr", "-1", "greater than 0"), ("--optim.lrr", "1", "lrr")):
        with pytest.raises(SystemExit) as caught:
            parse(Run, ["--config", write(tmp_path, "name: a"), flag, value])
        assert caught.value.code == 2
        assert says in capsys.readouterr().err


def test_differing_fields():
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    assert differing_fields(old, {"a": 1, "b": {"c": 5, "d": 3}, "e": 4}) == ["b.c: 2 -> 5", "e: None -> 4"]


class Range(Config):
    scale: Annotated[float, Field(ge=1)] | tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = 1.0
    mode: Literal["auto"] | int | None = None


class Nested(Config):
    one: Range = Range()
    several: tuple[Range, ...] = ()
    named: dict[str, int | list[int]] | None = None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("one: {scale: 0.5}", r"one.scale: Input should be greater than or equal to 1 \(got 0.5\)"),
        ("one: {scale: [0.5, 2]}", r"one.scale.0: Input should be greater than or equal to 1 \(got 0.5\)"),
        ("one: {scale: [2, a]}", r"one.scale.1: Input should be a valid number, .* \(got 'a'\)"),
        ("one: {scale: [2]}", "one.scale.1: Field required"),
        ("one: {scale: a}", r"one.scale: a valid number or a list is needed \(got 'a'\)"),
        ("one: {scale: }", r"one.scale: a valid number or a list is needed \(got None\)"),
        ("one: {mode: often}", r"one.mode: Input should be 'auto' \(got 'often'\)"),
        ("several: [{}, {scale: 0}]", r"several.1.scale: Input should be greater than or equal to 1 \(got 0\)"),
        ("named: {a: b}", r"named.a: a valid integer or a list is needed \(got 'b'\)"),
        ("named: {a: [1, b]}", r"named.a.1: Input should be a valid integer, .* \(got 'b'\)"),
        (
            "{several: [{scale: 0, x: 1}], one: []}",
            r"unknown field 'several.0.x', .*; one: a mapping is needed [^;]*; several.0.scale: [^;]* 1 \(got 0\)",
        ),
    ],
)
def test_of_several_kinds_that_a_value_may_be_its_own_is_told(tmp_path, text, says):
    with pytest.raises(UsageError, match=f"run.yaml: {says}$"):
        load(Nested, write(tmp_path, text))
