"""What the animate job decides before it has workers: which items, and how many workers fit."""

import pytest

from animatediff.rendering.catalog.catalog import Catalog, expand
from pipelines.stages.animate import launch as animate
from pipelines.stages.animate.launch import pending_items


def plan_of(*entries, problems=None, base="owner/base"):
    content = {"base": base, "motion_module": "mm.safetensors", "prompts": ["a", "b"], "entries": list(entries)}
    catalog = Catalog.model_validate(content)
    return expand(catalog, problems=problems or {}, content_hash=lambda uri: uri)


def test_one_item_of_each_digest_is_pending_that_of_the_highest_priority():
    plan = plan_of({"name": "one"}, {"name": "urgent", "priority": 5}, {"name": "later", "priority": -1})
    assert len({item.digest for item in plan.items}) == 2
    assert [(item.entry, item.prompt) for item in pending_items(plan, set())] == [("urgent", "a"), ("urgent", "b")]
    assert [item.prompt for item in pending_items(plan, {plan.items[0].digest})] == ["b"]


def test_what_cannot_be_rendered_is_not_pending():
    plan = plan_of({"name": "good"}, {"name": "bad", "loras": [{"path": "x"}]}, problems={1: "there is no file x"})
    assert {item.entry for item in pending_items(plan, set())} == {"good"}


@pytest.mark.parametrize(
    ("base_gb", "memory_gb", "expected"),
    # 1 GB for the process and three times the base's files.
    [(1, 64, 4), (1, 9, 2), (1, 3, 1), (2, 22, 3), (2, 0, 1)],
)
def test_workers_on_cpus_are_as_many_as_fit(monkeypatch, base_gb, memory_gb, expected):
    monkeypatch.setattr(animate, "num_cpus", lambda: 4)
    monkeypatch.setattr(animate, "_num_bytes", lambda uri: base_gb * 1e9)
    monkeypatch.setattr(animate.ray, "cluster_resources", lambda: {"memory": memory_gb * 1e9} if memory_gb else {})
    assert animate._default_actors(plan_of({"name": "one"}), use_gpu=False) == expected


def test_there_is_a_worker_for_each_gpu(monkeypatch):
    monkeypatch.setattr(animate, "num_gpus", lambda: 8)
    assert animate._default_actors(plan_of({"name": "one"}), use_gpu=True) == 8


def test_the_size_of_a_base_is_that_of_the_files_that_are_loaded(tmp_path):
    for name, size in (("unet/a.safetensors", 30), ("vae/b.bin", 20), ("safety_checker/c.bin", 1000), ("d.ckpt", 500)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert animate._num_bytes(str(tmp_path)) == 50
