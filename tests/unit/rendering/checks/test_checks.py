"""Catalog checks: every fault is told, with its entry and its remedy, before anything is rendered."""

import json
import re
import shutil

import fsspec
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from animatediff.errors import UsageError, UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.checks import catalog as checks
from animatediff.rendering.checks.catalog import check, report
from animatediff.sprites import shipped
from animatediff.weights import base_facts, motion_modules
from animatediff.weights.base import load_unet, load_vae
from animatediff.weights.identify.weights_file import identify
from animatediff.weights.lora import lora_file
from animatediff.weights.reading.remote_header import remote_header
from animatediff.weights.reading.tensors import open_tensors
from tests.support_base import build_base
from tests.support_weights import ldm_file, vae_file

FEW = {"num_inference_steps": 4, "guidance_scale": 1}
GOOD = {"name": "good", "prompts": ["a cat"]}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEMPORAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


def pair(name, down="lora_down", up="lora_up", into=32):
    return {f"{name}.{down}.weight": torch.ones(2, into), f"{name}.{up}.weight": torch.ones(32, 2)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module for it, and one file of every family that a catalog takes."""
    folder = tmp_path_factory.mktemp("weights")
    unet = load_unet(str(build_base(folder / "base")))
    motion_modules.write(str(folder / "motion.safetensors"), MotionModules.for_base(unet, MotionConfig()))
    key = "lora_unet_" + ATTENTION.replace(".", "_")
    save_file(pair(f"{key}_to_q"), folder / "lora.safetensors")
    save_file(pair(f"{key.replace('attn1', 'attn2')}_to_k", into=2048), folder / "sdxl.safetensors")
    save_file({f"{key}_to_q.oft_blocks": torch.ones(4, 8, 8)}, folder / "oft.safetensors")
    save_file({"emb_params": torch.ones(2, 32)}, folder / "sks.safetensors")
    motion_lora = pair(f"{TEMPORAL}.processor.to_q_lora", "down", "up")
    save_file(motion_lora, folder / "motion_lora.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in motion_lora.items()}, folder / "wrapped.safetensors")
    (folder / "broken.safetensors").write_bytes(b"broken")
    checkpoint = ldm_file({"unet": unet.state_dict()})
    save_file(checkpoint, folder / "silent.safetensors")
    save_file(checkpoint | dict.fromkeys(("v_pred", "ztsnr"), torch.tensor([])), folder / "v.safetensors")
    return folder


@pytest.fixture
def content(files):
    return {
        "base": str(files / "base"),
        "motion_module": str(files / "motion.safetensors"),
        "entries": [{"name": "one", "prompts": ["a cat"]}],
    }


def checked(content, **entry):
    """The problems of an entry that is not the only one."""
    catalog = Catalog.model_validate(content | {"entries": [content["entries"][0] | entry, GOOD]})
    problems = check(catalog)
    assert 1 not in problems
    return problems.get(0, "")


def refusal(content):
    """Why nothing in a catalog can be rendered."""
    with pytest.raises(UserError) as caught:
        check(Catalog.model_validate(content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_faults_are_told_at_once(content):
    content["entries"] = [
        {
            "name": "a",
            "prompts": ["x"],
            "checkpoint": "no/model.safetensors",
            "loras": [{"path": "no/lora.safetensors"}],
        },
        {"name": "a", "prompts": ["x"], "width": 100, "num_frames": 64},
        {"name": "../b", "prompts": ["x"]},
    ]
    assert refusal(content) == (
        "the catalog has 6 problems: "
        "entry '../b': use letters, digits, '.', '_' and '-' in the name; "
        "entry 'a': 2 entries have this name and not the same model: give each model its own; "
        "entry 'a': checkpoint: there is no file or folder no/model.safetensors; "
        "entry 'a': loras: there is no file or folder no/lora.safetensors; "
        "entry 'a': width 100 is no multiple of 8, use 96; "
        "entry 'a': the motion module takes at most 32 frames, not 64: set `context` for longer clips"
    )


def test_one_entrys_faults_are_its_own(content):
    content["entries"] = [
        {"name": "a", "prompts": ["x"], "checkpoint": "no.safetensors", "width": 100},
        {"name": "b", "prompts": ["x"]},
        {"name": "c", "prompts": ["x"], "checkpoint": "no.safetensors", "width": 100},
    ]
    catalog = Catalog.model_validate(content)
    problems = check(catalog)
    line = "checkpoint: there is no file or folder no.safetensors; width 100 is no multiple of 8, use 96"
    assert problems == {0: line, 2: line}
    assert report(problems, catalog) == f"2 of 3 entries cannot be rendered: entries 'a', 'c': {line}"
    assert report({}, catalog) == "all 3 entries can be rendered"


def test_one_prompts_faults_are_its_own(content):
    content |= {"prompts": ["x", {"prompt": "y" * 50, "width": 100}]}
    content["entries"] = [{"name": "a"}, {"name": "b"}]
    catalog = Catalog.model_validate(content)
    problems = check(catalog)
    assert problems == dict.fromkeys([(0, 1), (1, 1)], "width 100 is no multiple of 8, use 96")
    shown = f"prompt '{'y' * 40}...'"
    assert report(problems, catalog) == (
        f"2 prompts cannot be rendered: entries 'a' ({shown}), 'b' ({shown}): width 100 is no multiple of 8, use 96"
    )
    plan = expand(catalog, problems=problems)
    assert [plan.invalid.get(item.digest, "")[:5] for item in plan.items] == ["", "width", "", "width"]


def test_a_fault_of_all_prompts_is_the_entrys(content):
    good, bad = {"prompt": "x", "width": 64}, {"prompt": "x", "width": 100}
    content |= {"width": 100}
    content["entries"] = [{"name": "a", "prompts": [good]}, {"name": "b", "prompts": [bad, bad]}]
    assert check(Catalog.model_validate(content)) == {1: "width 100 is no multiple of 8, use 96"}
    content["entries"] = [{"name": "b", "prompts": [bad, bad | {"width": 101}]}]
    assert refusal(content) == (
        "the catalog has 2 problems: entry 'b' (prompt 'x'): width 100 is no multiple of 8, use 96; "
        "entry 'b' (prompt 'x'): width 101 is no multiple of 8, use 104"
    )


def test_what_all_entries_share_is_told_once(content):
    content["entries"] = [{"name": name, "prompts": ["x"]} for name in "abcdef"]
    content["entries"][0]["checkpoint"] = "no.safetensors"
    for missing in ("base", "motion_module"):
        assert refusal(content | {missing: "/nowhere"}) == (
            "the catalog has 2 problems: entry 'a': checkpoint: there is no file or folder no.safetensors; "
            f"{missing}: there is no file or folder /nowhere"
        )
    del content["base"]
    assert "there is no base: name one in the entry or for the whole catalog" in refusal(content)


def test_of_many_problems_twenty_are_told(content):
    content["entries"] = [{"name": f"e{i}", "prompts": ["x"], "checkpoint": f"no/{i}.ckpt"} for i in range(50)]
    message = refusal(content)
    assert message.startswith("the catalog has 50 problems: entry 'e0': ")
    assert message.endswith("entry 'e19': checkpoint: there is no file or folder no/19.ckpt; and 30 more")
    content["entries"] = [GOOD] + [entry | {"checkpoint": "no.ckpt"} for entry in content["entries"]]
    catalog = Catalog.model_validate(content)
    assert report(check(catalog), catalog) == (
        "50 of 51 entries cannot be rendered: entries 'e0', 'e1', 'e2' and 47 more: "
        "checkpoint: there is no file or folder no.ckpt"
    )


def test_entries_of_one_name_may_have_the_same_weights(content, files):
    lora = {"path": str(files / "lora.safetensors")}
    one = {"name": "a", "prompts": ["x"], "loras": [lora]}
    content["entries"] = [one, one | {"prompts": ["y"], "width": 64}, GOOD]
    assert check(Catalog.model_validate(content)) == {}
    content["entries"][1]["loras"] = [lora | {"scale": 0.5}]
    assert list(check(Catalog.model_validate(content))) == [0, 1]


def test_an_entry_without_prompts_is_told(content):
    del content["entries"][0]["prompts"]
    assert (
        refusal(content)
        == "the catalog has 1 problem: entry 'one': it has no prompts: give it some, or the whole catalog"
    )


def test_a_motion_module_of_another_architecture_is_refused(content, tmp_path):
    config = MotionConfig()
    small = MotionModules(config, down=[[32] * 2] * 4, mid=32, up=[[32] * 3] * 4)
    motion_modules.write(str(tmp_path / "small.safetensors"), small)
    assert "was made for another architecture" in checked(content, motion_module=str(tmp_path / "small.safetensors"))


def test_a_typo_names_the_field(content, tmp_path):
    content["entries"][0]["guidance"] = 7
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        UsageError, match=r"unknown field 'entries.0.guidance', did you mean 'entries.0.guidance_scale'"
    ):
        checks.read(str(path))


def test_every_family_in_its_place_passes(content, files):
    lora, motion_lora = ({"path": str(files / f"{name}.safetensors")} for name in ("lora", "motion_lora"))
    embedding = {"path": str(files / "sks.safetensors")}
    base = str(files / "base")
    for entry in (
        {"checkpoint": base, "loras": [lora], "domain_adapter": lora, "motion_loras": [motion_lora]},
        {"prompts": ["a SKS cat"], "embeddings": [embedding]},
        {"negative_prompt": "ugly, sks", "embeddings": [embedding]},
        {"prompts": ["x", {"prompt": "y", "negative_prompt": "sks"}], "embeddings": [embedding]},
        {"prompts": ["a <toy> cat"], "embeddings": [embedding | {"token": "<toy>"}]},
    ):
        assert checked(content, **entry) == ""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"loras": ["motion_lora"]}, "motion_lora.safetensors is a MotionLoRA.*give it as `motion_loras:`"),
        ({"motion_loras": ["lora"]}, "lora.safetensors is a LoRA, not a MotionLoRA: give it as `loras:`"),
        ({"domain_adapter": "sks"}, "sks.safetensors is .*textual inversion.*`embeddings:`"),
        ({"embeddings": ["lora"]}, "lora.safetensors is a LoRA.*`loras:`"),
        ({"loras": ["oft"]}, "oft.safetensors is of the kind OFT, which is not applied"),
        ({"checkpoint": "motion"}, "motion.safetensors is .*motion module.*`motion_module:`"),
        ({"loras": ["sdxl"]}, "sdxl.safetensors is an SDXL LoRA, the base is Stable Diffusion 1.x"),
    ],
)
def test_a_file_in_the_wrong_place_is_told_with_the_right_one(content, files, entry, expected):
    ((field, value),) = entry.items()
    paths = [{"path": str(files / f"{name}.safetensors")} for name in ([value] if isinstance(value, str) else value)]
    given = paths if isinstance(value, list) else paths[0]
    assert re.search(expected, checked(content, **{field: given["path"] if field == "checkpoint" else given}))


def test_a_file_that_cannot_be_read_is_left_to_its_items(content, files):
    broken = str(files / "broken.safetensors")
    assert checked(content, checkpoint=broken, loras=[{"path": broken}], embeddings=[{"path": broken}]) == ""


def test_an_embedding_that_no_prompt_uses_is_told(content, files):
    problem = checked(content, prompts=["a sksx cat"], embeddings=[{"path": str(files / "sks.safetensors")}])
    assert problem == f"no prompt uses the embedding {files}/sks.safetensors: write 'sks' where it belongs"


SDXL = {
    "addition_embed_type": "text_time",
    "projection_class_embeddings_input_dim": 2816,
    "addition_time_embed_dim": 256,
}


def changed_base(files, tmp_path, config, changes):
    """The base with another config; its weights do not go with it any more."""
    base = shutil.copytree(files / "base", tmp_path / "base")
    path = base / config
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return str(base)


@pytest.mark.parametrize(
    ("config", "changes", "problem"),
    [
        (
            "unet/config.json",
            SDXL,
            "base {} has no config.json in its text_encoder_2/: copy the whole folder of the model",
        ),
        (
            "unet/config.json",
            {"cross_attention_dim": 1024},
            "base {} is a Stable Diffusion 2 model: take a Stable Diffusion 1.x or SDXL base",
        ),
        ("unet/config.json", {"cross_attention_dim": [32] * 4}, ""),
        (
            "unet/config.json",
            {"in_channels": 9},
            "the UNet of base {} takes 9 channels, as for inpainting, and its VAE's latents have 4: take a "
            "text-to-image base",
        ),
        (
            "vae/config.json",
            {"latent_channels": 16},
            "the UNet of base {} takes 4 channels, and its VAE's latents have 16: take a text-to-image base",
        ),
        (
            "vae/config.json",
            {"block_out_channels": None, "_class_name": "AutoencoderTiny"},
            "the VAE of base {} has the class AutoencoderTiny, an AutoencoderKL is needed",
        ),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "base {} predicts sample, as its scheduler says: take one that predicts epsilon or v_prediction",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": None}, ""),
    ],
)
def test_a_base_of_another_kind_is_told(content, files, tmp_path, config, changes, problem):
    base = changed_base(files, tmp_path, config, changes)
    assert checked(content, base=base) == problem.format(base)


def test_a_base_that_predicts_v_is_sampled_so_unless_the_catalog_has_another_schedule(content, files, tmp_path, caplog):
    caplog.set_level("INFO")
    base = changed_base(files, tmp_path, "scheduler/scheduler_config.json", {"prediction_type": "v_prediction"})
    assert checked(content, base=base) == ""
    assert f"base {base} predicts v_prediction, as it says: it is sampled so" in caplog.text
    assert checked(content, base=base, noise_schedule={"zero_terminal_snr": True}, timestep_spacing="leading") == (
        "a noise schedule with zero_terminal_snr must be sampled from its last timestep on, which timestep_spacing "
        "leading leaves out: set trailing, or leave it away"
    )
    assert checked(content, base=base, noise_schedule={"prediction_type": "epsilon"}) == (
        f"base {base} predicts v_prediction, and the noise schedule that is set is for models that predict epsilon: "
        "leave that out, or set its prediction_type to v_prediction"
    )
    # A checkpoint that says nothing may be of either kind.
    assert (
        checked(
            content,
            base=base,
            checkpoint=str(files / "silent.safetensors"),
            noise_schedule={"prediction_type": "epsilon"},
        )
        == ""
    )


def test_a_checkpoint_that_predicts_v_stands_among_others(content, files):
    """Unless the catalog has a whole schedule, which its own entry may still change."""
    v = str(files / "v.safetensors")
    entries = [
        {"name": name, "checkpoint": str(files / f"{name}.safetensors"), "prompts": ["a cat"]}
        for name in ("silent", "v")
    ]
    assert check(Catalog.model_validate(content | {"entries": entries})) == {}
    whole = {"noise_schedule": {"beta_end": 0.02}}
    (problem,) = check(Catalog.model_validate(content | whole | {"entries": entries})).values()
    assert problem.startswith(
        f"checkpoint {v} was trained to predict v, as it says, and the noise schedule that is set"
    )
    entries[1]["noise_schedule"] = {"prediction_type": "v_prediction"}
    assert check(Catalog.model_validate(content | whole | {"entries": entries})) == {}
    entries[1]["noise_schedule"] = {"zero_terminal_snr": True}
    (problem,) = check(Catalog.model_validate(content | whole | {"entries": entries})).values()
    assert problem.startswith("noise_schedule: zero_terminal_snr needs prediction_type v_prediction")


def test_a_noise_schedule_other_than_the_motion_modules_own_is_warned_of(content, tmp_path, caplog):
    motion = motion_modules.read(content["motion_module"])
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, motion, schedule={"beta_end": 0.02})
    for schedule, is_other in ((None, False), ({"beta_end": 0.02}, False), ({}, True), ({"beta_end": 0.012}, True)):
        caplog.clear()
        check(Catalog.model_validate(content | {"motion_module": uri, "noise_schedule": schedule}))
        assert ("is not the one that" in caplog.text) == is_other
    caplog.clear()
    check(Catalog.model_validate(content | {"noise_schedule": {"beta_end": 0.02}}))
    assert "is not the one that" not in caplog.text  # the file does not say
    entry = GOOD | {"noise_schedule": {"prediction_type": "v_prediction", "zero_terminal_snr": True}}
    check(Catalog.model_validate(content | {"motion_module": uri, "entries": [entry]}))
    assert "is not the one that" not in caplog.text  # of what the UNet predicts
    motion_modules.write(uri, motion, schedule={"beta_schedule": "strange"})
    with pytest.raises(UserError, match="the noise schedule in .* cannot be used"):
        check(Catalog.model_validate(content | {"motion_module": uri}))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_frames": 32}, ""),
        ({"num_frames": 33}, "the motion module takes at most 32 frames, not 33: set `context` for longer clips"),
        ({"num_frames": 33, "loop": True}, "the motion module takes at most 32 frames, not 33: set"),
        ({"num_frames": 400, "context": {}}, ""),
        ({"num_frames": 400, "context": {"length": 32}, "loop": True}, ""),
        ({"num_frames": 400, "context": {"length": 40}}, "takes at most 32 frames, context.length 40 is more"),
        ({"num_frames": 16, "context": {"length": 40}}, ""),  # one window of 16
        ({"width": 8, "height": 12}, "height 12 is no multiple of 8, use 16"),
        ({"sampler": "lcm", "num_inference_steps": 4}, ""),
        ({"sampler": "lcm", "num_inference_steps": 200}, "num_inference_steps 200 must not be more"),
        ({"sampler": "lcm", "timestep_spacing": "trailing"}, "leave timestep_spacing away"),
        (
            {"noise_schedule": {"num_train_timesteps": 20}},
            "the noise schedule has 20 timesteps: num_inference_steps 25",
        ),
    ],
)
def test_settings_that_cannot_be_rendered_are_told(content, settings, problem):
    content |= {"noise_schedule": settings.pop("noise_schedule", None)}
    found = check(
        Catalog.model_validate(
            content | {"entries": [content["entries"][0] | settings, GOOD | {"num_inference_steps": 4}]}
        )
    )
    assert (problem in found[0]) if problem else found == {}


BOTH = {"init_image": "a.png", "init_video": "a.mp4"}
STARTS_AND_PASSES = [
    ({"init_image": "a.png"}, ""),
    ({"init_image": "a.png", "strength": 0.3}, ""),
    ({"init_image": "a.png", "strength": 0}, ""),
    (BOTH, "a clip begins from init_image or from init_video, not from both: set one of them to null"),
    ({"strength": 0.5}, "strength says how much of an init_image or init_video is made anew: name one, or leave"),
    ({"init_image": "a.png", "strength": 0.03}, "strength 0.03 of 25 steps is less than one: set it to 0.04 or"),
    ({"init_video": "a.mp4", "strength": 0.2, "num_inference_steps": 3}, "set it to 0.334 or more, or to 0"),
    ({"init_video": "a.mp4", "strength": 0.334, "num_inference_steps": 3}, ""),
    ({"deep_cache": {}}, ""),
    ({"deep_cache": {}, "loop": True}, "a loop of one window begins elsewhere at each step: leave deep_cache away"),
    ({"deep_cache": {}, "loop": True, "context": {"length": 8}}, ""),
    ({"deep_cache": {}, "free_init": {}, "guidance_every": 2, "guidance_interval": {"end": 0.5}}, ""),
    ({"guidance_after_every": 2}, "of which there are none: let that end earlier, such as {end: 0.5}, or set"),
    ({"guidance_after_every": 2, "guidance_interval": {"start": 0.2}}, "behind guidance_interval, of which there are"),
    ({"preset": "fast", "guidance_interval": None}, "or set guidance_after_every to null"),
    ({"guidance_after_every": 2, "guidance_interval": {"end": 0.5}}, ""),
    ({"guidance_interval": {"end": 0.04}}, ""),
    (
        {"guidance_interval": {"end": 0.03}},
        "none of the 25 steps that are taken lies in guidance_interval {start: 0.0,",
    ),
    ({"guidance_interval": {"end": 0.03}, "guidance_scale": 1}, ""),
    ({"guidance_interval": {"end": 0.03}, "guidance_after_every": 10}, ""),
    ({"init_image": "a.png", "preset": "draft", "strength": 0.3}, "none of the 1 steps that are taken lies in guid"),
    ({"init_image": "a.png", "preset": "draft", "strength": 0.4}, ""),
    ({"init_image": "a.png", "preset": "fast", "strength": 0.25}, ""),
    ({"second_pass": {"strength": 0.2}, "preset": "draft"}, "none of the 1 steps of second_pass that are taken lies"),
    ({"free_init": {}}, ""),
    ({"free_init": {}, "loop": True, "context": {}, "num_frames": 40}, ""),
    ({"free_init": {}, "init_image": "a.png"}, "with init_image it begins from pictures: set one of the two to"),
    ({"free_init": {}, "init_video": "a.mp4"}, "with init_video it begins from pictures"),
    ({"second_pass": {}}, ""),
    ({"second_pass": {}, "init_image": "a.png", "loop": True}, ""),
    ({"second_pass": {"scale": 1.3}, "width": 80}, ""),
    ({"second_pass": {"scale": 1.3}, "width": 64}, "second_pass.scale 1.3: width 83 is no multiple of 8, use 80"),
    ({"second_pass": {"scale": 1.5}, "height": 40}, "second_pass.scale 1.5: height 60 is no multiple of 8"),
    ({"second_pass": {"strength": 0.01}}, "second_pass.strength 0.01 of 25 steps is less than one: set it to"),
    ({"second_pass": {"strength": 0.1, "num_inference_steps": 4}}, "second_pass.strength 0.1 of 4 steps is less"),
    (
        {"second_pass": {"num_inference_steps": 200}, "sampler": "lcm", "num_inference_steps": 4},
        "num_inference_steps 200 must not be more",
    ),
]


def test_what_clips_begin_from_and_their_passes_must_go_together(content, tmp_path):
    entries = []
    for number, (settings, _) in enumerate(STARTS_AND_PASSES):
        files = {name: str(tmp_path / value) for name, value in settings.items() if name.startswith("init_")}
        entries.append({"name": f"e{number}", "prompts": ["a cat"], "width": 80, "height": 80, **settings, **files})
    Image.new("RGB", (8, 8)).save(tmp_path / BOTH["init_image"])
    (tmp_path / BOTH["init_video"]).write_bytes(b"")
    found = check(Catalog.model_validate(content | {"entries": entries}))
    for number, (settings, problem) in enumerate(STARTS_AND_PASSES):
        told = found.get(number, "")
        assert (problem in told) if problem else told == "", settings


def test_a_preset_is_not_undone_by_none(content):
    prompts = ["x", {"prompt": "x", "preset": None}, {"prompt": "x", "preset": "quality"}]
    named = [{"preset": None}, {"preset": "draft"}, {}, {"prompts": prompts}]
    entries = [{"name": f"e{i}", "prompts": ["x"], **entry} for i, entry in enumerate(named)]
    found = check(Catalog.model_validate(content | {"guidance_scale": 5, "preset": "fast", "entries": entries}))
    problem = "preset: null undoes nothing of preset fast: name another, such as quality, or leave it away"
    assert found == {0: problem, (3, 1): problem}
    assert check(Catalog.model_validate(content | {"entries": entries[:1]})) == {}


def test_a_folder_is_no_weights_file(content, files, tmp_path):
    shutil.copy(files / "lora.safetensors", tmp_path / "lora.safetensors")
    for field in ("loras", "motion_loras", "embeddings"):
        assert f"{tmp_path} is a folder: name the weights file in it" in checked(content, **{field: [str(tmp_path)]})
    assert f"{tmp_path} is a folder" in checked(content, domain_adapter=str(tmp_path))


def test_a_warning_names_who_has_it(content, caplog):
    few = {"sampler": "dpmpp_2m", "num_inference_steps": 12}
    prompts = ["x", {"prompt": "a cat", **few}]
    entries = [
        {"name": "a", "prompts": ["x"], **few},
        {"name": "b", "prompts": ["x"]},
        {"name": "c", "prompts": prompts},
    ]
    assert check(Catalog.model_validate(content | {"entries": entries})) == {}
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("entries 'a', 'c' (prompt 'a cat'): sampler dpmpp_2m, 12 steps")


def test_free_init_without_what_it_keeps_is_refused(content):
    schedule = {"zero_terminal_snr": True, "prediction_type": "v_prediction"}
    entries = [content["entries"][0] | {"free_init": {}}, GOOD]
    found = check(Catalog.model_validate(content | {"noise_schedule": schedule, "entries": entries}))
    assert "leaves nothing there (zero_terminal_snr): leave free_init away" in found[0]


def test_a_picture_that_is_not_there_or_is_none_is_told_of_the_prompt_that_names_it(content, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    missing, there, broken = (str(tmp_path / f"{name}.png") for name in "bac")
    prompts = [{"prompt": uri, "init_image": uri} for uri in (missing, there, broken)]
    found = check(Catalog.model_validate(content | {"entries": [{"name": "one", "prompts": [*prompts, "c"]}]}))
    none = f"init_image: {broken} cannot be read as a picture: it is none of PNG, JPEG, WebP, TIFF, BMP and GIF"
    assert found == {(0, 0): f"init_image: there is no file or folder {missing}", (0, 2): none}
    assert checked(content, init_video=missing) == f"init_video: there is no file or folder {missing}"


def test_each_file_and_pair_is_looked_at_once(content, files, monkeypatch):
    opened = []
    for module, name in ((lora_file, "open_lora"), (motion_modules, "open_file"), (base_facts, "load_config")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, of=original: opened.append(args) or of(*args))
    entry = {"prompts": ["x"], "loras": [{"path": str(files / "lora.safetensors")}]}
    content["entries"] = [entry | {"name": f"e{i}", "seeds": [i], "fps": i + 1} for i in range(30)]
    assert check(Catalog.model_validate(content)) == {}
    assert len(opened) == len(set(opened))


@pytest.mark.parametrize(
    ("name", "settings", "warning"),
    [
        ("mm", {}, None),
        ("lightning_4step", {"sampler": "euler", "timestep_spacing": "trailing", **FEW}, None),
        (
            "lightning_4step",
            {},
            "AnimateDiff-Lightning: its pictures need sampler euler with timestep_spacing trailing, ",
        ),
        ("Lightning-8step", {"sampler": "euler", "timestep_spacing": "trailing", **FEW}, "need num_inference_steps 8"),
        ("AnimateLCM_sd15", {"sampler": "lcm", **FEW}, None),
        ("AnimateLCM_sd15", {"sampler": "lcm", **FEW, "guidance_scale": 8}, "need a guidance_scale of 1 to 2"),
        ("AnimateLCM_sd15", {}, "AnimateLCM: its pictures need sampler lcm, 4 to 8 steps, a guidance_scale of 1 to 2"),
    ],
)
def test_few_step_modules_with_other_settings_are_warned_of_once(content, tmp_path, caplog, name, settings, warning):
    uri = str(shutil.copy(content["motion_module"], tmp_path / f"{name}.safetensors"))
    entry = {"prompts": ["x"], **settings}
    content |= {"motion_module": uri, "entries": [entry | {"name": f"e{i}", "width": 64 + 8 * i} for i in range(3)]}
    assert check(Catalog.model_validate(content)) == {}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (warning is not None)
    assert warning is None or warning in told[0]


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"num_inference_steps": 12, "guidance_scale": 5}, "take at least 16 steps"),
        ({"num_inference_steps": 16, "guidance_scale": 5}, None),
        ({}, "take at least 26 steps"),
        ({"num_inference_steps": 26}, None),
        ({"num_inference_steps": 12, "guidance_scale": 2}, None),
        ({"num_inference_steps": 2, "guidance_scale": 1}, None),
        ({"num_inference_steps": 8, "guidance_interval": {"end": 0.5}, "guidance_scale": 5}, None),
        ({"num_inference_steps": 8, "guidance_interval": {"end": 0.5}}, "take a guidance_scale of 5"),
        ({"num_inference_steps": 16, "guidance_interval": {"end": 0.5}}, None),
        ({"num_inference_steps": 8, "guidance_interval": {"start": 0.2}}, "take at least 26 steps"),
        ({"preset": "draft", "guidance_scale": 5}, None),
        ({"preset": "fast"}, "take a guidance_scale of 5"),
        ({"preset": "draft", "guidance_interval": None}, "take at least 26 steps"),
        ({"num_inference_steps": 26, "second_pass": {"scale": 2}}, None),
        (
            {"num_inference_steps": 26, "second_pass": {"scale": 2, "num_inference_steps": 7}},
            "second_pass, sampler dpm",
        ),
        (
            {"preset": "fast", "num_inference_steps": 26, "second_pass": {"scale": 2, "num_inference_steps": 9}},
            "second_pass, sampler dpmpp_2m, 9 steps with a guidance_scale of 8: colours and subjects can be lost",
        ),
    ],
)
def test_second_order_under_strong_guidance_is_warned_of_once(content, caplog, settings, remedy):
    entry = {"prompts": ["x"], "sampler": "dpmpp_2m", **settings}
    entries = [entry | {"name": f"e{i}", "width": 64 + 8 * i} for i in range(3)]
    assert check(Catalog.model_validate(content | {"entries": entries})) == {}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (remedy is not None)
    assert remedy is None or remedy in told[0]
    others = [entry | {"name": "e", "sampler": "ddim"}]
    caplog.clear()
    check(Catalog.model_validate(content | {"entries": others}))
    assert not caplog.records


def test_few_step_modules_find_nothing_that_could_be_taken_again(content, tmp_path):
    uri = str(shutil.copy(content["motion_module"], tmp_path / "lightning_4step.safetensors"))
    settings = {"sampler": "euler", "timestep_spacing": "trailing", **FEW}
    entries = [{"name": "a", "deep_cache": {}}, {"name": "b", "guidance_every": 2}, {"name": "c"}]
    content |= {"motion_module": uri, "entries": [{"prompts": ["x"], **settings, **entry} for entry in entries]}
    found = check(Catalog.model_validate(content))
    assert found.keys() == {0, 1}
    for index, field in enumerate(("deep_cache", "guidance_every")):
        assert found[index].startswith(f"{field} takes from one step what another found, and motion module {uri} is an")
        assert found[index].endswith(f"leave {field} away")


def test_a_deep_cache_without_deep_layers_is_refused():
    """The sprite world's decoder has six layers."""
    entries = [{"name": f"e{n}", "prompts": ["x"], "deep_cache": {"layers": n}} for n in (1, 5, 6, 7)]
    files = {"base": str(shipped.BASE), "motion_module": str(shipped.MOTION_MODULE)}
    found = check(Catalog.model_validate(files | {"width": 64, "height": 64, "entries": entries}))
    assert found.keys() == {2, 3}
    assert found[2].startswith("deep_cache.layers 6: the base's decoder has 6 layers")


def test_a_few_step_module_is_known_by_its_title_too(content, tmp_path, caplog):
    tensors = dict(open_tensors(content["motion_module"]).tensors)
    uri = str(tmp_path / "mm.safetensors")
    save_file(tensors, uri, {"modelspec.title": "AnimateDiff Lightning 2-step"})
    check(Catalog.model_validate(content | {"motion_module": uri}))
    assert "num_inference_steps 2" in caplog.text


def test_remote_weights_are_told_by_their_headers(content, files, tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    folder = f"memory://{tmp_path.name}"
    for name in ("lora", "motion_lora", "sdxl", "broken"):
        fsspec.filesystem("memory").pipe_file(
            f"{folder}/{name}.safetensors", (files / f"{name}.safetensors").read_bytes()
        )
    lora, motion_lora, sdxl, broken, no = (
        {"path": f"{folder}/{name}.safetensors"} for name in ("lora", "motion_lora", "sdxl", "broken", "no")
    )
    assert checked(content, loras=[lora], motion_loras=[motion_lora]) == ""
    assert "is a MotionLoRA" in checked(content, loras=[motion_lora])
    assert "sdxl.safetensors is an SDXL LoRA" in checked(content, loras=[sdxl])
    assert "there is no file or folder memory://" in checked(content, loras=[no])
    fetched = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert fetched <= {"motion_lora.safetensors"}  # small, and asked for the middle block
    assert checked(content, loras=[broken], checkpoint=broken["path"]) == ""


def test_a_header_tells_what_the_file_would(files, tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    for name in ("lora", "motion_lora", "sdxl", "oft", "sks", "motion", "wrapped"):
        uri = f"memory://{tmp_path.name}/{name}.safetensors"
        fsspec.filesystem("memory").pipe_file(uri, (files / f"{name}.safetensors").read_bytes())
        header, file = remote_header(uri), open_tensors(uri)
        assert identify(header) == identify(file)
        assert header.tensors.keys() == file.tensors.keys()
    assert remote_header(str(files / "lora.safetensors")) is None


def test_a_vae_is_a_vae_s_file_or_folder(content, files, tmp_path):
    vae = vae_file(load_vae(str(files / "base")).state_dict())
    save_file(vae, tmp_path / "vae.safetensors")
    for uri in (tmp_path / "vae.safetensors", files / "base" / "vae", files / "base"):
        assert checked(content, vae=str(uri)) == ""
    assert checked(content, vae="no.pt") == "vae: there is no file or folder no.pt"
    assert "lora.safetensors is a LoRA, not a VAE: give it as `loras:`" in checked(
        content, vae=str(files / "lora.safetensors")
    )
    assert "is a VAE, not a domain adapter or a LoRA: give it as `vae:`" in checked(
        content, loras=[str(tmp_path / "vae.safetensors")]
    )
    shutil.copytree(files / "base" / "unet", tmp_path / "own" / "unet")
    assert checked(content, vae=str(tmp_path / "own")) == (
        f"vae: {tmp_path}/own is a folder without weights of it: name a file, or a folder that diffusers wrote"
    )


def test_two_embeddings_with_one_token_are_told(content, files, tmp_path):
    one, other = (
        str(files / "sks.safetensors"),
        str(shutil.copy(files / "sks.safetensors", tmp_path / "x.safetensors")),
    )
    both = {"prompts": ["a sks cat, x"], "embeddings": [{"path": one}, {"path": other, "token": "SKS"}]}
    assert checked(content, **both) == (
        f"{one} and {other} both have the token 'sks': give one of them another, as `token:`"
    )
    assert checked(content, **(both | {"embeddings": [{"path": one}, {"path": other}]})) == ""
    longer = {"path": other, "token": "sks cat"}
    assert checked(content, **(both | {"embeddings": [{"path": one}, longer]})) == ""


def test_more_layers_than_the_text_encoder_has_are_told(content):
    problem = "clip_skip 2 leaves nothing of the base's text encoder, which has 2 layers: set at most 1"
    assert checked(content, clip_skip=1) == ""
    assert checked(content, clip_skip=2) == problem
    assert checked(content, prompts=["x", {"prompt": "y", "clip_skip": 1}], clip_skip=2) == ""
    catalog = Catalog.model_validate(
        content | {"entries": [GOOD | {"prompts": ["x", {"prompt": "y", "clip_skip": 2}]}]}
    )
    assert check(catalog) == {(0, 1): problem}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("tokenizer", "tokenizer.json in its tokenizer/"),
        ("text_encoder", "config.json in its text_encoder/"),
        ("text_encoder/config.json", "config.json in its text_encoder/"),
        ("text_encoder/model.safetensors", "weights in its text_encoder/"),
        ("vae/diffusion_pytorch_model.safetensors", "weights in its vae/"),
    ],
)
def test_a_base_that_lacks_a_part_is_told(content, files, tmp_path, lost, told):
    base = shutil.copytree(files / "base", tmp_path / "base")
    path = base / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert checked(content, base=str(base)) == f"base {base} has no {told}: copy the whole folder of the model"


def test_a_checkpoint_s_folder_that_lacks_weights_is_told(content, files, tmp_path):
    folder = shutil.copytree(files / "base", tmp_path / "own")
    fsspec.filesystem("memory").put(str(folder), f"/{tmp_path.name}/own", recursive=True)
    assert checked(content, checkpoint=str(folder)) == ""
    assert checked(content, checkpoint=str(folder / "vae")) == ""
    assert checked(content, checkpoint=f"memory://{tmp_path.name}/own") == ""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert checked(content, checkpoint=str(folder)) == (
        f"checkpoint: {folder} has no weights in its unet/: diffusion_pytorch_model.safetensors is missing there"
    )
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}/own/vae/diffusion_pytorch_model.safetensors")
    assert "has no weights in its vae/" in checked(content, checkpoint=f"memory://{tmp_path.name}/own")
    (tmp_path / "empty").mkdir()
    for path in (folder / "tokenizer", tmp_path / "empty"):
        assert checked(content, checkpoint=str(path)) == (
            f"checkpoint: {path} is a folder without weights of it: name a file, or a folder that diffusers wrote"
        )
