"""Digests as earlier versions gave them: an item that they rendered is found again, whatever the code looks like."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.reading import catalog_files

_NAMES = ("motion", "other_motion", "checkpoint", "vae", "lora", "second_lora", "adapter", "camera", "learned", "word")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that are told apart by their names, and embeddings that say their words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    for name in _NAMES:
        save_file({"emb_params": torch.zeros(1, 32)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def content_hash(uri):
    if "gone" in uri:
        raise UserError("there is no such file")
    return hashlib.sha256(Path(uri).name.encode()).hexdigest()


def digests_of(folder, text, *, problems=None, **tables):
    for name, content in tables.items():
        (folder / f"{name}.csv").write_text(content)
    (folder / "catalog.yaml").write_text(f"base: base\nmotion_module: motion.safetensors\n{text}\n")
    plan = expand(catalog_files.read("catalog.yaml"), problems=problems, content_hash=content_hash)
    return [item.digest[:16] for item in plan.items]


ONE = "entries: [{{name: one, prompts: [a cat], {}}}]"


@pytest.mark.parametrize(
    ("entry", "digest"),
    [
        ("seeds: 0", "2e8636edfee1287a"),
        ("checkpoint: checkpoint.safetensors", "728b13bd9c75c4be"),
        ("vae: vae.safetensors", "c58d4f3d38979c77"),
        ("checkpoint: checkpoint.safetensors, vae: vae.safetensors", "221de52006978dd9"),
        ("loras: [lora.safetensors]", "c95b610e607ac46a"),
        (
            "loras: [{path: lora.safetensors, scale: 0.5}, {path: second_lora.safetensors, scale: -1}]",
            "0acf7fc3cafc1bbb",
        ),
        ("domain_adapter: adapter.safetensors", "4aa6bdae014edf72"),
        ("domain_adapter: {path: adapter.safetensors, scale: 0}", "8100aff26606588d"),
        ("motion_loras: [camera.safetensors, {path: learned.safetensors, scale: 0.7}]", "169e351e11ecd0af"),
        ("embeddings: [word.safetensors]", "d89957412003cc44"),
        ("embeddings: [{path: word.safetensors, token: <w>}]", "c64bb08f36bc1d1a"),
        ("loras: [s3://gone/lora.safetensors]", "8b2428627a13b77c"),
        ("motion_module: other_motion.safetensors", "1ae670547724bd81"),
        (
            "checkpoint: checkpoint.safetensors, vae: vae.safetensors, "
            "embeddings: [{path: word.safetensors, token: w}], loras: [lora.safetensors, second_lora.safetensors], "
            "motion_loras: [camera.safetensors], domain_adapter: {path: adapter.safetensors, scale: 0.8}",
            "8fc30937feac898d",
        ),
        ("sampler: euler, timestep_spacing: trailing, num_inference_steps: 4, guidance_scale: 1", "0297e30c121c52d2"),
        ("context: {length: 12, overlap: 3}, num_frames: 48, loop: true, width: 256, clip_skip: 1", "c9b41ac7c70b5ee1"),
    ],
)
def test_of_one_entry(folder, entry, digest):
    assert digests_of(folder, ONE.format(entry)) == [digest]


def test_of_a_catalog_with_a_noise_schedule(folder):
    text = f"noise_schedule: {{beta_end: 0.02, prediction_type: v_prediction}}\n{ONE.format('fps: 12')}"
    assert digests_of(folder, text) == ["c729f2b87ca194da"]
    # What an entry says of it may say all that its catalog says.
    text = (
        f"noise_schedule: {{beta_end: 0.02}}\n{ONE.format('fps: 12, noise_schedule: {prediction_type: v_prediction}')}"
    )
    assert digests_of(folder, text) == ["c729f2b87ca194da"]


def test_what_an_entry_says_of_its_noise_schedule_is_in_its_digest(folder):
    says = "noise_schedule: {{{}}}".format
    said = ("prediction_type: v_prediction", "prediction_type: v_prediction, zero_terminal_snr: true", "beta_end: 0.02")
    entries = ("seeds: 0", says("prediction_type: null"), *map(says, said))
    found = [digests_of(folder, ONE.format(entry))[0] for entry in entries]
    assert found[:2] == ["2e8636edfee1287a"] * 2  # it says nothing
    assert len(set(found)) == 4


def test_of_prompts_with_settings_and_seeds_of_their_own(folder):
    prompts = "[a cat, {prompt: a dog, seeds: [3, 4], negative_prompt: grey, guidance_rescale: 0.7}]"
    text = f"seeds: 7\nprompts: {prompts}\nentries: [{{name: one}}, {{name: two, loras: [lora.safetensors]}}]"
    assert digests_of(folder, text) == [
        "ae11876cd90c29d7",
        "717d96b4a41b77ce",
        "4ee7938c5152859f",
        "7e495f181cfcff37",
        "0b6ad661cc9cd257",
        "87efe2f8cb1e20d9",
    ]


def test_of_tables(folder):
    entries = (
        "name,checkpoint,loras,domain_adapter,motion_loras,embeddings,prompt,seeds\n"
        "a,checkpoint.safetensors,lora.safetensors:0.5;second_lora.safetensors,adapter.safetensors:0.8,,,a cat,1;2\n"
        "b,,,,camera.safetensors,word.safetensors,a dog,\n"
    )
    text = "entries_uri: entries.csv\nprompts_uri: prompts.csv"
    assert digests_of(folder, text, entries=entries, prompts="prompt,width\na bird,256\n") == [
        "6023af50e5167544",
        "7396ecde6af7c6da",
        "21ab7ec337da8737",
    ]


def test_of_what_cannot_be_rendered(folder):
    text = ONE.format("vae: vae.safetensors")
    assert digests_of(folder, text, problems={0: "no such thing"}) == ["d30489af01a50707"]
