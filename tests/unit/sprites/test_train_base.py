"""The base's training ends with a folder that opens everywhere, even after a kill; wrong input ends with one line."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from animatediff.errors import UserError
from animatediff.sprites import train_base
from animatediff.sprites.evaluation import draw_prompts, open_base
from animatediff.sprites.models.fitting import Fit


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A few steps on a few pictures."""
    monkeypatch.setattr(train_base, "VAE_PLAN", Fit(num_steps=2, lr=1e-3))
    monkeypatch.setattr(train_base, "TEXT_TO_IMAGE_PLAN", Fit(num_steps=3, lr=1e-3))
    monkeypatch.setattr(train_base, "REFINEMENT_PLAN", Fit(num_steps=2, lr=1e-3))
    monkeypatch.setattr(train_base, "WORDS_PLAN", Fit(num_steps=2, lr=1e-3))
    monkeypatch.setattr(train_base, "READING_PLAN", Fit(num_steps=2, lr=1e-3))
    monkeypatch.setattr(train_base, "Captions", partial(train_base.Captions, num=40))
    monkeypatch.setattr(train_base, "train_vae", partial(train_base.train_vae, num_pictures=40))
    monkeypatch.setattr(train_base, "NUM_PICTURES", 40)


def tensors(base):
    parts = open_base(str(base))
    modules = (parts.vae, parts.text_encoder, parts.unet)
    return [tensor for module in modules for tensor in module.state_dict().values()]


def test_a_run_that_was_killed_while_it_saved_ends_with_the_same_base(tmp_path, monkeypatch):
    train_base.main(tmp_path / "base")
    with monkeypatch.context() as patch:
        patch.setattr(train_base, "_open_in_float32", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_base.main(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    train_base.main(tmp_path / "again")
    assert all(map(torch.equal, tensors(tmp_path / "base"), tensors(tmp_path / "again")))
    record = json.loads((tmp_path / "base" / "training.json").read_text())
    steps = {name: stage["num_steps"] for name, stage in record.items() if isinstance(stage, dict)}
    refined = {"refinement": 2, "second_refinement": 2, "words": 2, "reading": 2}
    assert steps == {"vae": 2, "text_to_image": 3, **refined}
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "base" / "tokenizer").iterdir()}
    assert draw_prompts(open_base(str(tmp_path / "base")), ["a red star"]).shape == (1, 64, 64, 3)
    texts = [path.read_text() for path in (tmp_path / "base").rglob("*.json")]
    assert not any(str(tmp_path) in text for text in texts)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        train_base.main(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


NOWHERE = {
    "evaluation": ["--base", "nowhere/base"],
    "personalise": ["--base", "nowhere/base", "--output", "out"],
    "clip_evaluation": ["--catalog", "nowhere/base.yaml"],
}
# As `python -m` runs each, but in one process: what they import takes seconds.
RUNNER = f"""
import runpy, sys
for command, arguments in {NOWHERE!r}.items():
    sys.argv = [command, *arguments]
    try:
        runpy.run_module(f"animatediff.sprites.{{command}}", run_name="__main__")
    except SystemExit as ended:
        print(command, ended.code)
"""


def test_what_is_not_there_ends_a_command_with_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert run.stdout.splitlines() == ["evaluation 1", "personalise 1", "clip_evaluation 2"]
    lines = run.stderr.strip().splitlines()
    assert len(lines) == len(NOWHERE), run.stderr
    assert all("nowhere/base" in line for line in lines)
