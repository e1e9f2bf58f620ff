"""Prompts that cannot be rendered as they are written cost their own items, and are told before anything begins."""

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.checks.catalog import check, report
from animatediff.sprites import shipped

GOOD = "a red circle"


def catalog(*prompts, **settings):
    entry = {"name": "one", **settings.pop("entry", {})}
    size = {"width": 64, "height": 64}
    weights = {"base": str(shipped.BASE), "motion_module": str(shipped.MOTION_MODULE)}
    return Catalog.model_validate({**weights, **size, "prompts": prompts, "entries": [entry], **settings})


def test_prompts_of_every_kind_pass():
    prompts = [
        GOOD,
        {"prompt": "(red:1.5) [x] BREAK ((y))", "prompt_syntax": "a1111"},
        {"prompt": {0: GOOD, 15: "a blue circle"}, "negative_prompt": {3: "grey"}, "loop": True},
        "<lora:x:1> [a|b] AND",  # plain characters
    ]
    assert check(catalog(*prompts)) == {}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"prompt": "a <lora:ink:0.8> cat", "prompt_syntax": "a1111"}, "name the file in `loras`"),
        ({"prompt": {0: GOOD, 4: "[a|b]"}, "prompt_syntax": "a1111"}, "changes the prompt between"),
        ({"prompt": GOOD, "negative_prompt": "a AND b", "prompt_syntax": "a1111"}, "write 'and'"),
        ({"prompt": {0: GOOD, 16: "a blue circle"}}, "for frame 16, and the last of the clip's 16 frames is 15"),
        ({"prompt": GOOD, "negative_prompt": {0: "a", 99: "b"}}, "for frame 99"),
        ({"prompt": {0: GOOD, 8: "b"}, "num_frames": 8}, "for frame 8"),
    ],
)
def test_a_bad_prompt_costs_its_own_items_alone(bad, says):
    made = catalog(GOOD, bad)
    problems = check(made)
    assert problems.keys() == {(0, 1)}
    assert says in problems[0, 1]
    assert "\n" not in report(problems, made)
    plan = expand(made, problems=problems, content_hash=str)
    assert [item.digest in plan.invalid for item in plan.items] == [False, True]


def test_what_all_prompts_share_is_told_once():
    made = catalog("a", "b", negative_prompt="[x|y]", prompt_syntax="a1111")
    with pytest.raises(UserError, match="the catalog has 1 problem: entry 'one': prompt"):
        check(made)


def test_an_embeddings_word_may_stand_in_any_prompt_as_it_is_read(tmp_path):
    path = tmp_path / "sks.safetensors"
    save_file({"emb_params": torch.zeros(1, 128)}, path)

    def problems(*prompts, token="my_(style)"):
        return check(catalog(*prompts, GOOD, entry={"embeddings": [{"path": str(path), "token": token}]}))

    assert problems({"prompt": r"a (my_\(style\):1.2) circle", "prompt_syntax": "a1111"}) == {}
    assert problems({"prompt": {0: GOOD, 5: "a my_(style) circle"}}) == {}
    assert problems({"prompt": GOOD, "negative_prompt": {5: "my_(style)"}}) == {}
    with pytest.raises(UserError, match="no prompt uses the embedding"):
        problems({"prompt": "a my_(style) circle", "prompt_syntax": "a1111"})
