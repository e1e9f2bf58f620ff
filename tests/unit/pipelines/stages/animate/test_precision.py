"""What `precision: auto` is taken as: found out once a folder, from the nodes, and kept."""

import logging
from types import SimpleNamespace

import pytest

from animatediff.errors import UserError
from animatediff.models.computing import processor
from animatediff.rendering.catalog.catalog import Catalog
from pipelines.settings import AnimateConfig
from pipelines.stages.animate import precision


@pytest.fixture
def cluster(monkeypatch):
    """A cluster: whether it has GPUs, the nodes that emulate bfloat16, and how often it was asked."""
    found = SimpleNamespace(has_gpu=False, slow=[], asked=0)

    def nodes_without_bfloat16():
        found.asked += 1
        return found.slow

    monkeypatch.setattr(precision, "connect", lambda: None)
    monkeypatch.setattr(precision, "wants_gpus", lambda use_gpu: found.has_gpu if use_gpu is None else use_gpu)
    monkeypatch.setattr(precision, "nodes_without_bfloat16", nodes_without_bfloat16)
    return found


def auto(folder, said="auto", **config):
    entries = [{"name": "one", "prompts": ["x"]}, {"name": "two", "prompts": ["x"], "precision": said}]
    catalog = Catalog.model_validate({"base": "b", "motion_module": "m", "entries": entries})
    job = AnimateConfig(catalog_uri="c.yaml", output_uri=str(folder), **config)
    return precision.auto_precision(job, catalog, str(folder))


@pytest.mark.parametrize(
    ("has_gpu", "slow", "expected"), [(False, [], "bfloat16"), (False, ["10.0.0.7"], None), (True, [], None)]
)
def test_it_is_bfloat16_where_every_processor_multiplies_it(cluster, tmp_path, has_gpu, slow, expected):
    cluster.has_gpu, cluster.slow = has_gpu, slow
    assert auto(tmp_path) == expected


@pytest.mark.parametrize(("first", "second"), [([], ["10.0.0.7"]), (["10.0.0.7"], [])])
def test_a_folder_keeps_to_what_its_first_run_found(cluster, tmp_path, first, second):
    cluster.slow = first
    found = auto(tmp_path)
    cluster.slow = second
    assert auto(tmp_path) == auto(tmp_path, dry_run=True) == found
    assert cluster.asked == 1
    assert auto(tmp_path / "another") != found


@pytest.mark.parametrize("said", [None, "float32", "bfloat16"])
def test_a_catalog_without_auto_asks_nobody(cluster, tmp_path, said):
    assert auto(tmp_path, said) is None
    assert cluster.asked == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bfloat16"), (False, None)])
def test_a_dry_run_goes_by_its_own_processor_and_writes_nothing(cluster, tmp_path, monkeypatch, is_native, expected):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: is_native)
    assert auto(tmp_path, dry_run=True) == expected
    assert auto(tmp_path, dry_run=True, use_gpu=True) is None
    assert cluster.asked == 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_is_not_taken_from_a_file_that_was_changed(cluster, tmp_path):
    auto(tmp_path)
    record = tmp_path / "inputs" / "precision.json"
    record.write_text(record.read_text().replace("bfloat16", "float16"))
    with pytest.raises(UserError, match=r"precision\.json was changed.*found out anew"):
        auto(tmp_path)


_BFLOAT16 = "in bfloat16 on processors that do not multiply it, which is slow: on 10.0.0.7; precision: float32 suits"
_FLOAT16 = (
    "in float16, which PyTorch emulates on CPUs, many times slower than float32: on all nodes; precision: {} suits"
)


@pytest.mark.parametrize(
    ("precisions", "slow", "told"),
    [
        ({None, "float32"}, ["10.0.0.7"], []),
        (set(), ["10.0.0.7"], []),
        ({None, "bfloat16"}, ["10.0.0.7"], [_BFLOAT16]),
        ({"bfloat16"}, [], []),
        ({"float16"}, ["10.0.0.7"], [_FLOAT16.format("float32")]),
        ({None, "float16"}, [], [_FLOAT16.format("bfloat16")]),
        ({"float16", "bfloat16"}, ["10.0.0.7"], [_FLOAT16.format("float32"), _BFLOAT16]),
    ],
)
def test_half_precisions_that_processors_emulate_are_told_with_what_suits_them(cluster, caplog, precisions, slow, told):
    cluster.slow = slow
    with caplog.at_level(logging.WARNING):
        precision.warn_of_slow_nodes(precisions)
    assert len(caplog.messages) == len(told)
    assert all(line in message for line, message in zip(told, caplog.messages, strict=True))


def test_nodes_are_asked_for_themselves_and_one_that_is_silent_counts_as_slow(monkeypatch):
    a, b, c, d = (letter * 56 for letter in "abcd")
    natives = {a: True, b: False, c: None}
    nodes = [
        {"NodeID": name, "NodeManagerAddress": f"host-{name[0]}", "Alive": name != d, "Resources": resources}
        for name, resources in (*((name, {"CPU": 2.0}) for name in (a, b, c, d)), ("e" * 56, {}))
    ]

    class Task:
        def options(self, *, scheduling_strategy):
            self.node = scheduling_strategy.node_id
            return self

        def remote(self):
            return self.node

    asked = SimpleNamespace(
        nodes=lambda: nodes,
        remote=lambda **_: lambda function: Task(),
        wait=lambda refs, num_returns, timeout: (
            [ref for ref in refs if natives[ref] is not None],
            [ref for ref in refs if natives[ref] is None],
        ),
        get=natives.get,
    )
    monkeypatch.setattr(precision, "ray", asked)
    assert precision.nodes_without_bfloat16() == ["host-b", "host-c"]
