import functools
import json
import logging
import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from diffusers.utils import logging as diffusers_logging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from animatediff import storage
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules
from animatediff.weights.layouts import motion as motion_layouts
from animatediff.weights.reading import files

MODULES = {"v1": 20, "v2": 21, "v3": 20, "animatelcm": 21, "sdxl": 15, "hotshotxl": 15}
VERSIONS = [*MODULES]
WIDTHS = {"sd1": (32, 32, 64, 64), "xl": (32, 64, 64)}
NORM = "down_blocks.1.motion_modules.0.temporal_transformer.norm.weight"


def make(version, *, widths=None, **changes):
    torch.manual_seed(VERSIONS.index(version))
    widths = widths or WIDTHS["xl" if "xl" in version else "sd1"]
    motion = MotionModules(
        MotionConfig.for_version(version).model_copy(update=changes),
        down=[[c, c] for c in widths],
        mid=widths[-1],
        up=[[c, c, c] for c in reversed(widths)],
    )
    for parameter in motion.parameters():
        torch.nn.init.normal_(parameter)
    return motion


def table(frames, channels):
    """Written down once more, number by number."""
    rows = [[i / 10_000 ** ((c - c % 2) / channels) for c in range(channels)] for i in range(frames)]
    return torch.tensor([[[(math.cos if c % 2 else math.sin)(x) for c, x in enumerate(row)] for row in rows]])


def published(version, dtype=torch.float32, *, tables=True, widths=None):
    """What the official repository publishes: its names, a position table in each attention, no metadata."""
    return dict(_published(version, dtype, tables, widths))


@functools.cache
def _published(version, dtype, tables, widths):
    motion = make(version, widths=widths)
    state = {name: tensor.to(dtype) for name, tensor in motion.state_dict().items()}
    for name in [name for name in state if tables and name.endswith("to_q.weight")]:
        pe = table(motion.config.max_frames, len(state[name]))
        state[name.replace("to_q.weight", "pos_encoder.pe")] = pe.to(dtype)
    return {name: tensor.clone() for name, tensor in state.items()}  # q, k and v are parts of one tensor


def hotshot():
    state = published("hotshotxl")
    rename = {"motion_modules": "temporal_attentions", "temporal_transformer.": "", ".pe": ".positional_encoding"}
    for old, new in rename.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def saved(state, folder, name="mm.safetensors"):
    path = folder / name
    save_file(state, path) if name.endswith(".safetensors") else torch.save(state, path)
    return str(path)


def same(a, b):
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def weights_of(state):
    return {name: tensor for name, tensor in state.items() if not re.search(r"pos_en|pos_embed", name)}


def adapter_of(version):
    """diffusers' own motion module with a version's weights, converted by diffusers."""
    config = MotionConfig.for_version(version)
    adapter = MotionAdapter(
        block_out_channels=WIDTHS["xl" if "xl" in version else "sd1"],
        motion_max_seq_length=config.max_frames,
        use_motion_mid_block=config.use_mid_block,
    )
    weights = convert_animatediff_checkpoint_to_diffusers(published(version))
    missing, unexpected = adapter.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("pos_embed.pe") for name in missing)
    return adapter


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_read_back(version, tmp_path):
    motion = make(version, num_heads=4, norm_num_groups=16)
    for to, name in (("official", "mm.safetensors"), ("diffusers", "folder")):
        uri = str(tmp_path / name)
        motion_modules.write(uri, motion, to=to)
        again = motion_modules.read(uri)
        assert again.config == motion.config
        assert same(again.state_dict(), motion.state_dict())
        positions = dict(motion.named_buffers())
        assert positions
        assert same(dict(again.named_buffers()), positions)
        assert all(parameter.requires_grad for parameter in again.parameters())
        assert motion_modules.open_file(uri).version == version


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("version", ["v1", "v2", "v3", "sdxl"])
def test_conversion_keeps_every_bit(version, dtype, tmp_path):
    original = published(version, dtype)
    uri, straight, folder, back = (
        str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c", "d.safetensors")
    )
    save_file(original, uri)
    motion_modules.convert(uri, straight, to="official")
    motion_modules.convert(uri, folder, to="diffusers")
    motion_modules.convert(folder, back, to="official")
    for path in (straight, back):
        written = load_file(path)
        assert written.keys() == original.keys()
        assert len(written) == 28 * MODULES[version]
        assert same(weights_of(written), weights_of(original))
        assert all(torch.allclose(written[name].float(), original[name].float(), atol=8e-3) for name in original)
        assert {tensor.dtype for tensor in written.values()} == {dtype}
    diffusers_file = load_file(f"{folder}/diffusion_pytorch_model.safetensors")
    assert len(diffusers_file) == 27 * MODULES[version]
    assert same(weights_of(diffusers_file), convert_animatediff_checkpoint_to_diffusers(original))
    opened = motion_modules.open_file(folder)
    assert opened.config == MotionConfig.for_version(version)
    assert same(dict(opened.state), weights_of(original))


@pytest.mark.parametrize("version", VERSIONS)
def test_diffusers_opens_what_is_written(version, tmp_path, caplog):
    diffusers_logging.enable_propagation()
    folder, file = str(tmp_path / "folder"), str(tmp_path / "mm.safetensors")
    motion_modules.write(folder, make(version), to="diffusers")
    motion_modules.write(file, make(version))
    expected = adapter_of(version)
    with caplog.at_level(logging.WARNING):
        from_folder = MotionAdapter.from_pretrained(folder, local_files_only=True)
        from_file = MotionAdapter.from_single_file(file, config=folder, local_files_only=True)
    assert not caplog.messages
    assert same(from_folder.state_dict(), expected.state_dict())
    assert same(from_file.state_dict(), expected.state_dict())
    assert {k: v for k, v in from_folder.config.items() if k[0] != "_"} == {
        k: v if not isinstance(v, tuple) else list(v) for k, v in expected.config.items() if k[0] != "_"
    }


@pytest.mark.parametrize(
    ("version", "variant"), [*((version, None) for version in VERSIONS), ("v2", "fp16"), ("v3", "bin")]
)
def test_diffusers_folders_are_read(version, variant, tmp_path):
    adapter = adapter_of(version)
    if variant == "bin":
        adapter.save_pretrained(tmp_path, safe_serialization=False)
    else:
        adapter.save_pretrained(tmp_path, variant=variant)
    motion = motion_modules.read(str(tmp_path))
    assert motion.config == MotionConfig.for_version(version)
    assert same(motion.state_dict(), weights_of(published(version)))


@pytest.mark.parametrize(("version", "rows", "is_told"), [("v1", 24, False), ("v1", 32, True), ("v2", 32, False)])
def test_v1_with_the_table_of_v3_is_told(version, rows, is_told, tmp_path, caplog):
    config = MotionConfig.for_version(version)
    MotionAdapter(
        (32, 32, 32, 32), motion_max_seq_length=rows, use_motion_mid_block=config.use_mid_block
    ).save_pretrained(tmp_path)
    assert motion_modules.open_file(str(tmp_path)).version == ("v3" if is_told else version)
    assert ("of v1, take the official file" in caplog.text) == is_told


def test_a_diffusers_folder_brings_its_heads(tmp_path):
    MotionAdapter(
        (32, 64), motion_num_attention_heads=4, motion_norm_num_groups=8, motion_max_seq_length=48
    ).save_pretrained(tmp_path)
    config = motion_modules.open_file(str(tmp_path)).config
    assert (config.num_heads, config.norm_num_groups, config.max_frames) == (4, 8, 48)
    assert config.use_mid_block


@pytest.mark.parametrize("version", VERSIONS)
def test_published_files_are_recognised(version, tmp_path):
    state = published(version)
    found = motion_modules.open_file(saved(state, tmp_path))
    assert (found.version, found.layout, found.config) == (version, "official", MotionConfig.for_version(version))
    assert same(dict(found.state), weights_of(state))


def wrapped(state):
    """As the official trainer saves them."""
    inner = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 1, "global_step": 7, "state_dict": inner}


def with_leftovers(state):
    return state | {"animatediff_config": {"motion_module_type": "Vanilla", "motion_module_kwargs": {"max_len": 32}}}


def lcm_names(state):
    return {name.replace("pos_encoder.pe", "pos_encoder.pos_encoding"): tensor for name, tensor in state.items()}


def without_tables(state):
    return {name: tensor for name, tensor in state.items() if "pos_encoder" not in name}


def diffusers_names(state):
    return convert_animatediff_checkpoint_to_diffusers(state) | {
        re.sub(r"\.temporal_transformer(.*)attention_blocks.0.pos_encoder", r"\1pos_embed", name): tensor
        for name, tensor in state.items()
        if "attention_blocks.0.pos_encoder" in name
    }


@pytest.mark.parametrize(
    ("version", "change", "name"),
    [
        ("v1", lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "mm.safetensors"),
        ("v2", wrapped, "mm.ckpt"),
        ("v3", wrapped, "mm.ckpt"),
        ("v3", with_leftovers, "mm.ckpt"),
        ("animatelcm", lcm_names, "lcm.ckpt"),
        ("animatelcm", without_tables, "lcm.safetensors"),
        ("v3", without_tables, "mm.safetensors"),
        ("sdxl", without_tables, "mm.safetensors"),
        ("v1", diffusers_names, "v1_diffusers.safetensors"),
        ("v2", diffusers_names, "lightning_diffusers.safetensors"),
        ("animatelcm", diffusers_names, "hellomeme.safetensors"),
        ("hotshotxl", diffusers_names, "hotshotxl_diffusers.safetensors"),
        ("hotshotxl", lambda _: hotshot(), "hsxl_temporal_layers.safetensors"),
        ("hotshotxl", lambda _: without_tables(hotshot()), "hsxl_temporal_layers.safetensors"),
    ],
)
def test_every_wrapping_is_unwrapped(version, change, name, tmp_path):
    motion = motion_modules.read(saved(change(published(version)), tmp_path, name))
    assert motion.config == MotionConfig.for_version(version)
    assert same(motion.state_dict(), weights_of(published(version)))


def tiny_unet(**changes):
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=WIDTHS["sd1"], cross_attention_dim=16, attention_head_dim=8, **changes
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("tables", [True, False])
def test_whole_unet_dumps_give_their_motion_modules(version, tables, tmp_path, caplog):
    dump = tiny_unet().state_dict() | published(version, tables=tables)
    uri = saved(wrapped(dump), tmp_path, "checkpoint.ckpt")
    found = motion_modules.open_file(uri)
    assert found.config == MotionConfig.for_version(version)
    assert same(dict(found.state), weights_of(published(version)))
    assert "whole UNet" in caplog.text


def test_a_dump_of_diffusers_motion_unet_is_read(tmp_path, caplog):
    UNetMotionModel.from_unet2d(tiny_unet(), adapter_of("v2")).save_pretrained(tmp_path)
    motion = motion_modules.read(str(tmp_path))
    assert motion.config == MotionConfig.for_version("v2")
    assert same(motion.state_dict(), weights_of(published("v2")))


def test_what_was_guessed_is_said(tmp_path, caplog):
    motion_modules.open_file(saved(published("v3", tables=False), tmp_path))
    assert "no position tables" in caplog.text
    caplog.clear()
    motion_modules.open_file(saved(published("v3"), tmp_path))
    assert not caplog.messages


def test_eight_bit_files_are_read(tmp_path):
    state = published("v3", torch.float8_e4m3fn)
    motion = motion_modules.read(saved(state, tmp_path))
    assert same(motion.state_dict(), {name: tensor.float() for name, tensor in weights_of(state).items()})


def test_the_norms_of_versions_with_a_table_of_their_own():
    """As in Hotshot-XL's `ResnetBlock3D` (statistics of the clip) and AnimateLCM's `use_inflated_groupnorm: true`."""
    assert MotionConfig.for_version("hotshotxl") == MotionConfig(max_frames=24, resnet_norm_scope="clip")
    assert MotionConfig.for_version("animatelcm") == MotionConfig(max_frames=64, use_mid_block=True)


def test_hotshotxl_computes_what_its_own_code_does(tmp_path):
    """Hotshot-XL's `TransformerTemporal`, written down from its file: normed by frame, attending over frames."""
    state = hotshot()
    place = "down_blocks.1.temporal_attentions.1."
    w = {name.removeprefix(place): tensor for name, tensor in state.items() if name.startswith(place)}

    def linear(name, x):
        return torch.nn.functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def attend(name, x):  # f (h w) c
        x = x + w[f"{name}.pos_encoder.positional_encoding"][0, : len(x), None]
        q, k, v = (linear(f"{name}.to_{n}", x).unflatten(-1, (8, 8)) for n in "qkv")
        scores = torch.einsum("fphd,gphd->phfg", q, k) / math.sqrt(8)
        return linear(f"{name}.to_out.0", torch.einsum("phfg,gphd->fphd", scores.softmax(-1), v).flatten(2))

    def layer_norm(name, x):
        return torch.nn.functional.layer_norm(x, (64,), w[f"{name}.weight"], w[f"{name}.bias"])

    def expected(x):
        frames = [
            torch.nn.functional.group_norm(frame[None], 32, w["norm.weight"], w["norm.bias"], 1e-6) for frame in x
        ]
        tokens = linear("proj_in", torch.cat(frames).flatten(2).transpose(1, 2))
        for i in range(2):
            block = "transformer_blocks.0."
            tokens = tokens + attend(f"{block}attention_blocks.{i}", layer_norm(f"{block}norms.{i}", tokens))
        value, gate = linear(f"{block}ff.net.0.proj", layer_norm(f"{block}ff_norm", tokens)).chunk(2, -1)
        tokens = tokens + linear(f"{block}ff.net.2", value * torch.nn.functional.gelu(gate))
        return x + linear("proj_out", tokens).transpose(1, 2).unflatten(2, x.shape[2:])

    motion = motion_modules.read(saved(state, tmp_path))
    x = torch.randn(6, 64, 3, 5)
    with torch.no_grad():
        given, wanted = motion.down_blocks[1].motion_modules[1](x, 6), expected(x)
    assert (given - wanted).abs().max() < 1e-5 * wanted.abs().max()


SPARSE_CONTROL = {"controlnet_cond_embedding.weight": torch.ones(32, 5, 1, 1)}
PIA = {"conv_in.weight": torch.ones(32, 9, 3, 3), "conv_in.bias": torch.ones(32)}
FANCY_VIDEO = PIA | {"fps_embedding.linear.weight": torch.ones(4, 4)}
CAMERA_CTRL = NORM.replace("norm.weight", "transformer_blocks.0.attention_blocks.0.processor.qkv_merge.weight")
PE = NORM.replace("norm.weight", "transformer_blocks.0.attention_blocks.1.pos_encoder.pe")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"img_encoder.down.weight": torch.ones(1)}, "AnimateLCM-I2V"),
        (SPARSE_CONTROL, "SparseCtrl"),
        ({"conv_in.weight": torch.ones(32, 8, 3, 3)}, "first convolution of 8 channels, which is not supported"),
        (FANCY_VIDEO, "FancyVideo"),
        ({CAMERA_CTRL: torch.ones(1)}, f"{CAMERA_CTRL} belongs to none"),
        ({"pose_encoder.weight": torch.ones(1)}, r"pose_encoder.weight \(1 such\) is no part"),
        ({NORM: None}, f"not a whole motion module: {NORM} is missing"),
        ({NORM: torch.ones(7)}, "7 channels does not divide"),
        ({NORM.replace("weight", "bias"): torch.ones(7)}, r"norm.bias is \[7\], not \[32\]"),
        ({NORM: torch.ones(32, dtype=torch.int64)}, "norm.weight holds int64, not weights"),
        ({PE: torch.randn(1, 32, 32)}, f"position table {PE} is not the usual sinusoid"),
        ({PE: 1.1 * table(32, 32)}, "position table .* is not the usual sinusoid"),
        ({PE: table(32, 32).roll(1, dims=1)}, "position table .* is not the usual sinusoid"),
        ({PE: table(32, 32)[0]}, "position table .* is not the usual sinusoid"),
        ({PE: torch.full((1, 32, 32), float("nan"))}, "position table .* is not the usual sinusoid"),
        ({PE: torch.zeros(1, 32, 33)}, "position table .* is not the usual sinusoid"),
        ({PE: table(24, 32)}, "position tables have different lengths"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change, reason, tmp_path):
    state = {name: tensor for name, tensor in (published("v3") | change).items() if tensor is not None}
    uri = saved(state, tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        motion_modules.open_file(uri)
    assert uri in str(caught.value)


def without(fragment, version="v3"):
    return {name: tensor for name, tensor in published(version).items() if fragment not in name}


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (without("down_blocks.3."), r"down_blocks.3.motion_modules.0\S+ is missing"),
        (without("up_blocks.0."), r"up_blocks.3.motion_modules.0\S+ is missing|up_blocks.0"),
        (without("up_blocks."), "up_blocks are missing"),
        (without("down_blocks."), "down_blocks are missing"),
        (without("up_blocks.2."), r"up_blocks.2.motion_modules.0\S+ is missing"),
        (without("down_blocks.1.motion_modules.1."), r"down_blocks.1.motion_modules.1\S+ is missing"),
        (without("up_blocks.1.motion_modules.2."), r"up_blocks.1.motion_modules.2\S+ is missing"),
        (without("mid_block.motion_modules.0.temporal_transformer.norm.", "v2"), r"mid_block\S+norm.weight is missing"),
        (
            {n: t for n, t in diffusers_names(published("v3")).items() if "norm3.bias" not in n},
            r"\.norm3.bias is missing",
        ),
    ],
)
def test_whole_parts_are_missed(state, missing, tmp_path):
    with pytest.raises(UserError, match=f"not a whole motion module: .*({missing})"):
        motion_modules.open_file(saved(state, tmp_path))


@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_key_that_is_gone_or_renamed_is_named(data, tmp_path):
    state = published(data.draw(st.sampled_from(["v1", "v2", "v3"])), tables=False)
    name = data.draw(st.sampled_from(sorted(state)))
    tensor = state.pop(name)
    if data.draw(st.booleans()):
        state[f"{name}x"] = tensor
    with pytest.raises(UserError, match=rf"{re.escape(name)} is missing"):
        motion_modules.open_file(saved(state, tmp_path))


@given(
    st.sampled_from(sorted(published("v2"))),
    st.sampled_from(["official", "diffusers", "hotshotxl"]),
)
def test_names_go_to_each_layout_and_back(name, layout):
    if not motion_layouts.is_table(name):
        there = motion_layouts.from_official(name, layout)
        assert motion_layouts.to_official(there, layout) == name
        others = {"official", "diffusers", "hotshotxl"} - {layout}
        assert all(motion_layouts.to_official(there, other) != name for other in others)


def test_nothing_else_is_a_motion_module(tmp_path):
    lora = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor"
    for state in (
        {"x": torch.zeros(1)},
        {f"{lora}.to_q_lora.down.weight": torch.zeros(2, 32)},
        tiny_unet().state_dict(),
    ):
        assert motion_layouts.detect(state, {}) is None
        with pytest.raises(UserError, match=r"mm.safetensors"):
            motion_modules.read(saved(state, tmp_path))
    with pytest.raises(UserError, match="no file or folder"):
        motion_modules.read(str(tmp_path / "absent"))
    (tmp_path / "motion_adapter").mkdir()
    both = r"has no diffusion_pytorch_model.* and no motion_module.safetensors.*name the motion_adapter folder"
    with pytest.raises(UserError, match=both):
        motion_modules.read(str(tmp_path))


def test_broken_numbers_are_refused(tmp_path):
    for value in (float("nan"), float("inf")):
        name = NORM.replace("norm.weight", "transformer_blocks.0.attention_blocks.0.to_k.weight")
        state = published("v1")
        state[name] = state[name].clone()
        state[name][3, 5] = value
        with pytest.raises(UserError, match=f"{re.escape(name)} has NaN or infinite values"):
            motion_modules.read(saved(state, tmp_path))


@pytest.mark.parametrize("config", ["{", "{}x", '{"num_heads": 0}', '{"max_frames": 1000000000000}', '{"unknown": 1}'])
def test_a_broken_config_is_told(config, tmp_path):
    uri = str(tmp_path / "mm.safetensors")
    save_file(published("v3"), uri, metadata={"motion_config": config})
    with pytest.raises(UserError, match=r"config in .*mm.safetensors cannot be used"):
        motion_modules.open_file(uri)


@pytest.mark.parametrize(
    "change",
    [
        {"motion_max_seq_length": 10**12},
        {"motion_num_attention_heads": [4, 4, 8, 8]},
        {"motion_norm_num_groups": "many"},
        {"motion_num_attention_heads": 5},
    ],
)
def test_a_diffusers_config_that_cannot_be_used_is_told(change, tmp_path):
    motion_modules.write(str(tmp_path), make("v3"), to="diffusers")
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(without_tables(diffusers_names(published("v3", tables=False))), weights)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        motion_modules.open_file(str(tmp_path))
    path.write_text("[")
    with pytest.raises(UserError, match=r"config.json in folder .*(cannot be read|is not valid JSON|holds a)"):
        motion_modules.open_file(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"num_layers": 3}, "3 temporal attentions"), ({"use_positions": False}, "no frame positions")],
)
def test_what_diffusers_has_not_is_refused(changes, reason, tmp_path):
    motion = make("v3", **changes)
    uri = str(tmp_path / "mm.safetensors")
    motion_modules.write(uri, motion)
    assert motion_modules.open_file(uri).config == motion.config
    assert same(motion_modules.read(uri).state_dict(), motion.state_dict())
    with pytest.raises(UserError, match=f"for diffusers, which has no motion modules with {reason}"):
        motion_modules.convert(uri, str(tmp_path / "folder"), to="diffusers")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("down", "up"), [([[32], [64] * 2], [[64] * 3, [32] * 3]), ([[32] * 2, [64] * 2], [[64] * 3, [32] * 2])]
)
def test_irregular_bases_stay_official(down, up, tmp_path):
    motion = MotionModules(MotionConfig(), down=down, mid=64, up=up)
    uri = str(tmp_path / "mm.safetensors")
    motion_modules.write(uri, motion)
    assert same(motion_modules.read(uri).state_dict(), motion.state_dict())
    with pytest.raises(UserError, match="irregular numbers"):
        motion_modules.convert(uri, str(tmp_path / "folder"), to="diffusers")


def test_outputs_are_named_for_their_layout(tmp_path):
    uri = saved(published("v3"), tmp_path)
    with pytest.raises(UserError, match=r"ends with \.safetensors: .*mm.ckpt is not"):
        motion_modules.convert(uri, str(tmp_path / "mm.ckpt"), to="official")
    with pytest.raises(UserError, match=r"a folder"):
        motion_modules.convert(uri, str(tmp_path / "x.safetensors"), to="diffusers")


def test_remote_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path)
    source = f"memory://{tmp_path.name}/mm.safetensors"
    motion_modules.write(source, make("v2"))
    motion_modules.convert(source, f"memory://{tmp_path.name}/folder", to="diffusers")
    assert same(motion_modules.read(f"memory://{tmp_path.name}/folder").state_dict(), make("v2").state_dict())


def training_run(uri):
    """What a run leaves: its motion module, and a checkpoint's with what only going on needs."""
    checkpoint = f"{uri}/checkpoints/step-00000010"
    for folder, version in ((uri, "v3"), (checkpoint, "v2")):
        motion_modules.write(f"{folder}/motion_module.safetensors", make(version))
    for name in ("optimizer.pt", "state.json"):
        storage.write_bytes(f"{checkpoint}/{name}", b"{}")
    return {uri: "v3", checkpoint: "v2"}


@pytest.mark.parametrize("where", ["local", "remote"])
def test_folders_of_a_run_and_of_its_checkpoints_open_as_their_file_does(tmp_path, monkeypatch, where):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    uri = f"memory://{tmp_path.name}/run" if where == "remote" else str(tmp_path / "run")
    for folder, version in training_run(uri).items():
        opened = motion_modules.open_file(folder)
        assert opened.uri == folder
        assert same(opened.build().state_dict(), make(version).state_dict())
    # Of a run in a bucket nothing else is fetched.
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert fetched == ({"motion_module.safetensors"} if where == "remote" else set())


def test_a_file_can_be_converted_in_place(tmp_path):
    original = published("v1", torch.float16)
    uri = saved(original, tmp_path)
    motion_modules.convert(uri, uri, to="official")
    assert same(weights_of(load_file(uri)), weights_of(original))


def test_a_motion_module_must_fit_the_base(tmp_path):
    fitting = motion_modules.open_file(saved(published("v2"), tmp_path))
    motion_modules.check_fits(fitting, dict(tiny_unet().config), "it")
    narrow = dict(tiny_unet(layers_per_block=1).config)
    with pytest.raises(UserError, match=r"than it: it is v2, for down blocks of 2 x 32, .* channels, .* 1 x 32, "):
        motion_modules.check_fits(fitting, narrow, "it")
    xl = motion_modules.open_file(saved(published("sdxl"), tmp_path))
    with pytest.raises(
        UserError, match=r"made for another architecture than it: it is sdxl, for down blocks of 2 x 32, "
    ):
        motion_modules.check_fits(xl, dict(tiny_unet().config), "it")
    with pytest.raises(UserError, match="base it cannot carry motion modules: .*num_class_embeds"):
        motion_modules.check_fits(fitting, dict(tiny_unet(num_class_embeds=3).config), "it")


@pytest.mark.parametrize("number", [40, 99])
def test_a_file_of_absurdly_many_places_is_told_at_once(tmp_path, number):
    """By the rule that blocks are alike, 40 blocks with one of 40 would be 1,600 motion modules to compare with."""
    norm = "temporal_transformer.norm.weight"
    names = [f"down_blocks.{i}.motion_modules.0.{norm}" for i in range(number)]
    names += [f"up_blocks.0.motion_modules.{i}.{norm}" for i in range(number)]
    save_file({name: torch.ones(32) for name in names}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="more than 8 in a row"):
        motion_modules.open_file(str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("config", ["[" * 100_000, '{"max_frames": ' + "9" * 5000 + "}", "[]"])
def test_strange_metadata_is_one_line(tmp_path, config):
    save_file(published("v3"), tmp_path / "m.safetensors", {"motion_config": config})
    with pytest.raises(UserError, match="motion module's config in .* cannot be used") as caught:
        motion_modules.open_file(str(tmp_path / "m.safetensors"))
    assert "\n" not in str(caught.value)


def test_a_block_number_of_900_digits_is_told(tmp_path):
    state = dict(published("v3"))
    state["down_blocks." + "1" * 900 + ".motion_modules.0.temporal_transformer.norm.weight"] = torch.ones(32)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="is no part of a motion module"):
        motion_modules.open_file(str(tmp_path / "m.safetensors"))


def test_tensors_that_share_memory_are_converted(tmp_path):
    state = dict(published("v3"))
    norm = "down_blocks.0.motion_modules.{}.temporal_transformer.norm.weight"
    state[norm.format(1)] = state[norm.format(0)]
    torch.save(state, tmp_path / "m.ckpt")
    motion_modules.convert(str(tmp_path / "m.ckpt"), str(tmp_path / "m.safetensors"), to="official")
    found = load_file(tmp_path / "m.safetensors")
    assert torch.equal(found[norm.format(0)], found[norm.format(1)])


@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_module_that_attends_to_captions_comes_back_as_it_was(tmp_path, keeps_metadata):
    motion = make("v2", text_width=24)
    uri = str(tmp_path / "mm.safetensors")
    motion_modules.write(uri, motion)
    if not keeps_metadata:
        save_file(load_file(uri), uri)
    read = motion_modules.read(uri)
    assert read.config == motion.config
    assert same(weights_of(read.state_dict()), weights_of(motion.state_dict()))
    assert all(
        torch.equal(a, b) for a, b in zip(read.buffers(), motion.buffers(), strict=True)
    )  # the position tables, which no file brings
    with pytest.raises(UserError, match="no motion modules with attention to the caption"):
        motion_modules.write(str(tmp_path / "folder"), motion, to="diffusers")


def test_a_file_says_which_noise_schedule_it_was_trained_with_and_is_always_the_same_bytes(tmp_path):
    motion, schedule = make("v3"), {"beta_end": 0.02, "beta_schedule": "linear"}
    uris = [str(tmp_path / f"{i}.safetensors") for i in range(6)]
    for uri in uris:
        motion_modules.write(uri, motion, schedule=schedule)
    assert len({Path(uri).read_bytes() for uri in uris}) == 1
    assert motion_modules.open_file(uris[0]).schedule == schedule
    assert motion_modules.open_file(uris[0]).config == motion.config
    motion_modules.convert(uris[0], str(tmp_path / "folder"), to="diffusers")
    assert motion_modules.open_file(str(tmp_path / "folder")).schedule == schedule
    motion_modules.write(uris[0], motion)
    assert motion_modules.open_file(uris[0]).schedule is None
