"""Every field of every config that names a place: what is planted there is opened, and stands in nothing published."""

import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import BaseModel
from safetensors.torch import save_file

from animatediff.commands import main
from animatediff.config import Config, dump, parse
from animatediff.errors import UsageError, UserError
from animatediff.rendering.catalog.reading.catalog_files import CatalogFile
from animatediff.uris import Uri, with_secrets
from animatediff.weights.reading import files
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.terminal.public_logs import keep_logs_public
from pipelines.tracking.run_context import flatten, shown
from tests.integration.files_server import served
from tests.support import mp4

LORA = {"path": "a.safetensors"}
MINIMAL = {
    IngestConfig: {"source": {"uri": "in"}, "output_uri": "out", "base": "base"},
    TrainJobConfig: {
        "run_name": "run",
        "dataset_uri": "data",
        "base": "base",
        "output_uri": "out",
        "base_checkpoints": ["base"],
        "mix": {},
        "model": {"domain_adapter": {}},
    },
    AnimateConfig: {"catalog_uri": "catalog.yaml", "output_uri": "out"},
    ScoreConfig: {"output_uri": "out", "scorer": "a:b"},
    CatalogFile: {
        "entries": [
            {"name": "a", "domain_adapter": LORA} | {each: [LORA] for each in ("loras", "motion_loras", "embeddings")}
        ],
    },
}
NO_PLACES = {
    *(
        "source.encoding",
        "decode.decoders.0",
        "scorers.0",
        "run_name",
        "registered_model",
        "where",
        "mix.where",
        "scorer",
    ),
    *("sample.prompts.0", "negative_prompt", "prompts.0.prompt", "prompts.0.negative_prompt"),
    *("entries.0.name", "entries.0.negative_prompt", "entries.0.prompts.0.prompt"),
    *("entries.0.prompts.0.negative_prompt", "entries.0.embeddings.0.token"),
    *(f"{above}controls.0.preprocess" for above in ("", "prompts.0.", "entries.0.", "entries.0.prompts.0.")),
    *(f"source.columns.{name}" for name in ("id", "video", "caption", "bytes")),
}
"""Texts that name no file or folder. A new field of text that is not added here has to be a `Uri`."""

SECRET = "S3cretValue"
PLANTED = [
    f"https://me:{SECRET}@h/a.yaml",
    f"https://{SECRET}@h/a.yaml",
    f"https://me:{SECRET}/b?c#d@h/a.yaml",
    f"https://h/a.yaml?token={SECRET}",
    f"https://h/a.yaml?X-Amz-Credential=c&X-Amz-Signature={SECRET}",
    f"https://h/a.yaml?v=1&%74oken={SECRET}",
    f"https://h/a.yaml;jsessionid={SECRET}",
    f"https://h/a.yaml#token={SECRET}",
    f"https://h/hdnts={SECRET}/a.yaml",
    f"https://h/get?url=https%3A%2F%2Fme%3A{SECRET}%40h%2Fa.yaml",
    f"s3://key:{SECRET}@bucket/a.yaml",
    f"ftp://me:{SECRET}@h/a.yaml",
    f"zip://a.yaml::https://me:{SECRET}@h/a.zip",
    f"simplecache::https://h/a.yaml?sig={SECRET}",
]


def texts(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """The paths of all fields of text, `0` for an element of a list, and the metadata of their types."""
    for name, field in model.model_fields.items():
        yield from _texts(field.annotation, tuple(field.metadata), f"{above}{name}")


def _texts(annotation: Any, metadata: tuple[Any, ...], path: str) -> Iterator[tuple[str, Any]]:
    if annotation is str:
        yield path, metadata
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from texts(annotation, f"{path}.")
    elif hasattr(annotation, "__metadata__"):
        yield from _texts(annotation.__origin__, metadata + annotation.__metadata__, path)
    else:
        is_list = getattr(annotation, "__origin__", None) in (tuple, list)
        for part in get_args(annotation):
            yield from _texts(part, metadata, f"{path}.0" if is_list else path)


MARK = get_args(Uri)[1]
FIELDS = [(schema, path, metadata) for schema in MINIMAL for path, metadata in texts(schema)]
PLACES = [(schema, path) for schema, path, metadata in FIELDS if MARK in metadata]


def with_value(content: Any, path: str, value: str) -> Any:
    """A copy of the content with a value at a path."""
    name, _, below = path.partition(".")
    if name == "0":
        return [with_value(content[0] if content else {}, below, value) if below else value]
    inner = (content or {}).get(name)
    return dict(content or {}) | {name: with_value(inner, below, value) if below else value}


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[0] if name == "0" else getattr(config, name)
    return config


def planted(schema: type[Config], path: str, uri: str) -> Config:
    content = completed(with_value(MINIMAL[schema], path, uri))
    if path == "model.motion_module":
        content["recipe"] = "finetune"
    if path == "model.sparse_control":
        content["recipe"] = "sparse_control"
        content["model"] = {"motion_module": "motion.safetensors", "sparse_control": uri}
    return schema.model_validate(content)


def completed(content: Any) -> Any:
    """The same with what else prompts, controls and images need."""
    if isinstance(content, list):
        return [completed(each) for each in content]
    if not isinstance(content, dict):
        return content
    done = {name: completed(value) for name, value in content.items()}
    for prompt in done.get("prompts", ()):
        prompt.setdefault("prompt", "a cat") if isinstance(prompt, dict) else None
    for control in done.get("controls", ()):
        control.setdefault("net", "net.pt")
        if "video" not in control:
            control.setdefault("pictures", ["picture.png"])
    for image in done.get("images", ()):
        image.setdefault("adapter", "adapter.pt")
        image.setdefault("pictures", ["picture.png"])
    return done


def test_every_field_of_text_is_a_place_or_known_to_be_none():
    assert [
        (schema.__name__, path) for schema, path, meta in FIELDS if MARK not in meta and path not in NO_PLACES
    ] == []
    assert len(PLACES) > 20


@pytest.mark.parametrize(("schema", "path"), PLACES, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_planted_is_opened_and_not_published(schema, path):
    for uri in PLANTED:
        config = planted(schema, path, uri)
        value = value_at(config, path)
        assert with_secrets(value) == uri
        assert with_secrets(value_at(pickle.loads(pickle.dumps(config)), path)) == uri
        assert with_secrets(value_at(schema.model_validate(config.model_dump()), path)) == uri
        params = {name: shown(each) for name, each in flatten(config.model_dump(mode="json")).items()}
        published = [
            *(
                dump(config),
                config.model_dump_json(),
                repr(config),
                str(config),
                f"{config}",
                repr(config.model_dump()),
            ),
            *(f"{value}", str(value), value + "/x", "/".join([value, "x"]), repr(params)),
        ]
        assert [text for text in published if SECRET in text] == [], uri
        # What was written down is a config, and the same one to whoever compares them.
        assert schema.model_validate(yaml.safe_load(dump(config))).model_dump(mode="json") == config.model_dump(
            mode="json"
        )


@pytest.mark.parametrize("uri", PLANTED)
def test_flags_beside_a_file_lose_no_secret(uri, tmp_path, capsys):
    path = tmp_path / "animate.yaml"
    path.write_text(yaml.safe_dump({"catalog_uri": uri, "output_uri": "out"}))
    config = parse(AnimateConfig, ["--config", str(path), "--crf", "20"])
    assert (with_secrets(config.catalog_uri), config.crf) == (uri, 20)
    assert with_secrets(parse(AnimateConfig, ["--catalog-uri", uri, "--output-uri", "out"]).catalog_uri) == uri
    assert with_secrets(parse(AnimateConfig, [f"--catalog-uri={uri}", "--output-uri", "out"]).catalog_uri) == uri
    wrong = (["--help"], ["--nonsense", uri], [f"--nonsense={uri}"], ["--crf", uri], [f"--crf={uri}"], [uri])
    for arguments in wrong:
        with pytest.raises(SystemExit):
            parse(AnimateConfig, ["--config", str(path), *arguments])
        assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize("uri", PLANTED)
def test_errors_tell_no_secret(uri, tmp_path):
    """Of a config that is not there, of a value that does not fit, and of what a library repeats."""
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({"output_uri": "out", "catalog_uri": [uri], "crf": uri * 9}))
    with pytest.raises(UsageError) as caught:
        parse(AnimateConfig, ["--config", str(tmp_path / "bad.yaml")])
    assert SECRET not in str(caught.value)
    config = planted(AnimateConfig, "catalog_uri", uri)
    for text in (f"{uri} is gone", f"port {SECRET!r} is none", f"cannot open {with_secrets(config.catalog_uri)}"):
        assert SECRET not in str(UserError(text))
        assert SECRET not in str(pickle.loads(pickle.dumps(UserError(text))))


def test_logs_and_tracebacks_of_others_tell_no_secret(capsys):
    keep_logs_public()
    uri = value_at(planted(AnimateConfig, "catalog_uri", PLANTED[2]), "catalog_uri")
    stream = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("other")
    logger.addHandler(stream)
    try:
        logger.warning("GET %s", with_secrets(uri))
        try:
            int(SECRET)
        except ValueError:
            logger.exception("a port of %s", SECRET)
    finally:
        logger.removeHandler(stream)
    out = capsys.readouterr().out
    assert "ValueError: invalid literal for int() with base 10: '...'" in out
    assert SECRET not in out


def test_an_uncaught_error_tells_no_secret():
    code = f"import pipelines\nfrom animatediff.uris import hide_secrets\nhide_secrets({PLANTED[0]!r})\nint('{SECRET}')"
    code = code.replace(f"int('{SECRET}')", f"int('{SECRET[:5]}' + '{SECRET[5:]}')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError: invalid literal" in done.stderr
    assert SECRET not in done.stderr


def test_the_command_reads_with_secrets_and_prints_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    (tmp_path / "web").mkdir()
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_down.weight": torch.zeros(2, 320), f"{name}.lora_up.weight": torch.zeros(320, 2)}
    save_file(tensors, tmp_path / "web" / "lora.safetensors")
    (tmp_path / "web" / "clip.mp4").write_bytes(mp4(2))
    with served(str(tmp_path / "web")) as port:
        lora, clip = (
            f"http://me:{SECRET}@127.0.0.1:{port}/{name}?token={SECRET}" for name in ("lora.safetensors", "clip.mp4")
        )
        for arguments, code in (
            (["identify", lora], 0),
            (["identify", "--json", lora, clip], 1),
            (["metadata", clip], 1),
        ):
            with pytest.raises(SystemExit) as caught:
                main(arguments)
            said = "".join(capsys.readouterr())
            assert caught.value.code == code
            assert SECRET not in said
            assert "cannot reach" not in said
    assert {path.name for path in (tmp_path / "cache").glob("*/*")} == {"lora.safetensors", "clip.mp4"}
