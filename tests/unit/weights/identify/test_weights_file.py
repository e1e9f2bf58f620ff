"""Files on disk and folders, what a file says of itself, what is told of misfits, and files of anything."""

import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.weights.identify.weights_file import expect_family, identify, identify_uri
from animatediff.weights.reading.tensors import TensorFile, open_tensors
from tests.support_base import build_base
from tests.unit.weights.identify.test_lora import LOW_RANK
from tests.unit.weights.identify.test_model import CLIP_L, LDM, MODELS, SD1
from tests.weights_samples import ATTN1, ATTN2, SD1_LORA, adapter, kohya, pair, z

ROWS = LOW_RANK | MODELS


@pytest.mark.parametrize(
    "row", ["v3", "MotionLoRA", "domain adapter", "LoRA of SD 1.x", "SDXL", "embedding of A1111", "VAE", "IP-Adapter"]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_from_disk_the_same_is_told(row, suffix, tmp_path):
    """Small tensors of the same names, in the wrappings that trainers put around them."""
    tensors = {
        name: tensor
        if tensor.device.type == "cpu"
        else torch.zeros([min(size, 48) for size in tensor.shape], dtype=tensor.dtype)
        for name, tensor in ROWS[row][0].items()
    }
    expected = identify(TensorFile("x", tensors))
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3}, path)
    found = identify_uri(str(path))
    assert found.sha256 is not None
    assert found == expected.model_copy(update={"uri": str(path), "sha256": found.sha256})
    assert found.family == ROWS[row][1]["family"] or row == "domain adapter"


def test_sha256_is_of_the_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"emb_params": torch.zeros(1, 768)}, path)
    assert identify_uri(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_file_says_of_itself():
    metadata = {
        "modelspec.title": "My cat",
        "ss_output_name": "not_this",
        "modelspec.author": "  Ann\nB\x1b[31m ",
        "license": '"CreativeML Open RAIL-M"',
        "trigger_words": '["mycat", "fur"]',
        "modelspec.description": "d" * 1000,
        "ss_network_dim": "None",
        "ss_tag_frequency": "{}",
    }
    found = identify(TensorFile("x", SD1_LORA, metadata)).metadata
    assert found.pop("description") == "d" * 197 + "..."
    assert found == {
        "title": "My cat",
        "author": "Ann B [31m",
        "licence": "CreativeML Open RAIL-M",
        "trigger words": "mycat, fur",
    }
    values = {"name": "mycat", "step": 500, "sd_checkpoint_name": "v1-5"}
    embedding = TensorFile("x", {"string_to_param.*": z(1, 768)}, values=values)
    assert identify(embedding).metadata == {"title": "mycat", "trained on": "v1-5"}


# row, what is wanted, the base to use it with: what the error says
MISFITS = {
    ("domain adapter", "motion_lora", None): r"x is a domain adapter \(LoRA on the base's attention, rank 128\), not a "
    "MotionLoRA: give it as `domain_adapter:` in a catalog, or as `model.domain_adapter.path:` in a training$",
    ("MotionLoRA", "lora", None): r"MotionLoRA \(v2\), not a LoRA: give it as `motion_loras:` in a catalog$",
    (
        "v3",
        "checkpoint",
        None,
    ): r"1.x motion module \(v3\), not a checkpoint: give it as `motion_module:`",
    ("SD 1.x", "motion_module", None): "checkpoint, not a motion module: give it as `checkpoint:`",
    ("LoHa", "textual_inversion", None): r"LoRA \(LoHa\), not a textual inversion: give it as `loras:`",
    ("embedding of SDXL", "lora", None): "is an SDXL textual inversion, not a LoRA: give it as `embeddings:`",
    ("ControlNet", "checkpoint", None): "ControlNet, not a checkpoint: give it as `controls:` in a catalog$",
    ("SparseCtrl of pictures", "motion_module", None): r"SparseCtrl encoder \(rgb\), not a motion module",
    ("Control-LoRA", "checkpoint", None): "is a Control-LoRA, not a checkpoint",
    ("IP-Adapter", "lora", None): "IP-Adapter, not a LoRA",
    ("a language model", "lora", None): r"no weights file of a known kind.*lm_head.*a LoRA is needed",
    ("LoRA of SDXL", "lora", "sd1"): "is an SDXL LoRA, the base is Stable Diffusion 1.x: use it with an SDXL base",
    ("LoRA of SD 1.x", "lora", "sdxl"): "the base is SDXL: use it with a Stable Diffusion 1.x base",
    (
        "LoRA of Wan",
        "lora",
        "sd1",
    ): "is a LoRA for another kind of model, the base is Stable Diffusion 1.x: take one that",
    (
        "LoRA of Flux",
        "lora",
        "sd1",
    ): "is a Flux LoRA, the base is Stable Diffusion 1.x: take one that was made for Stable",
    ("SD 2", "checkpoint", "sd1"): "is a Stable Diffusion 2 checkpoint",
    ("SDXL refiner", "checkpoint", "sdxl"): "is an SDXL refiner checkpoint, the base is SDXL: take one",
    ("embedding of SDXL", "textual_inversion", "sd1"): "use it with an SDXL base",
    ("SDXL-beta", "motion_module", "sd1"): "is an SDXL motion module",
    ("inpainting", "checkpoint", "sd1"): r"inpainting checkpoint \(its UNet takes 9 channels\): take the text-to-image",
    ("pix2pix", "checkpoint", None): r"pix2pix checkpoint \(its UNet takes 8 channels\)",
}


@pytest.mark.parametrize(("row", "wanted", "base"), MISFITS)
def test_misfits_are_told_where_they_belong(row, wanted, base):
    with pytest.raises(UserError, match=MISFITS[row, wanted, base]) as caught:
        expect_family(TensorFile("x", ROWS[row][0]), {wanted}, base=base)
    assert "\n" not in str(caught.value)


def test_expected_files_pass():
    assert expect_family(TensorFile("x", SD1_LORA), {"lora"}, base="sd1").base == "sd1"
    assert expect_family(TensorFile("x", adapter()), {"lora", "domain_adapter"}, base="sd1").family == "domain_adapter"
    # What does not tell its base may be for any.
    assert expect_family(TensorFile("x", pair(kohya(f"{ATTN1}.to_k"))), {"lora"}, base="sdxl").base is None
    assert expect_family(TensorFile("x", SD1), {"checkpoint"}).family == "checkpoint"


@pytest.mark.parametrize("row", ROWS)
def test_every_kind_has_words(row):
    """Whatever the file is, giving it as something else is one line."""
    family = ROWS[row][1].get("family", "lora")
    wanted = "vae" if family != "vae" else "lora"
    with pytest.raises(UserError, match=r"^x is (an?|no) .+"):
        expect_family(TensorFile("x", ROWS[row][0]), {wanted})


# --- folders ---


def test_folders_of_diffusers(tmp_path):
    base = build_base(tmp_path / "base")
    found = identify_uri(str(base))
    assert (found.family, found.layout, found.base) == ("checkpoint", "diffusers", None)
    assert found.metadata == {"pipeline": "StableDiffusionPipeline"}
    parts = [identify_uri(str(base / part)) for part in ("unet", "vae", "text_encoder")]
    assert [part.family for part in parts] == ["checkpoint", "vae", "checkpoint"]
    assert found.parameters == sum(part.parameters for part in parts)
    unet_file = next((base / "unet").glob("*.safetensors"))
    loaded = open_tensors(str(unet_file)).tensors.values()
    assert parts[0].parameters == sum(tensor.numel() for tensor in loaded)


def test_shards_and_variants_count_once(tmp_path):
    for i, name in enumerate(CLIP_L):
        tensor = torch.zeros(4, 768, dtype=torch.int64 if "ids" in name else torch.float32)
        save_file({name: tensor}, tmp_path / f"model-{i + 1:05}-of-00003.safetensors")
        save_file({name: tensor.half()}, tmp_path / f"model.fp16-{i + 1:05}-of-00003.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    found = identify_uri(str(tmp_path))
    assert (found.family, found.dtype, found.parameters) == ("checkpoint", "float32", 2 * 4 * 768)


def test_folder_of_peft_has_its_alpha_beside_it(tmp_path):
    tensors = pair(f"base_model.model.{ATTN2}.to_v", 4, 768, 640, (), ("lora_A", "lora_B"))
    save_file(
        {name: torch.zeros(tensor.shape) for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16}))
    found = identify_uri(str(tmp_path))
    assert (found.family, found.layout, found.rank, found.alpha) == ("lora", "peft", "4", "16")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=r"adapter_config.json is not valid JSON"):
        identify_uri(str(tmp_path))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        identify_uri(str(tmp_path / "nope"))
    with pytest.raises(UserError, match="without weights"):
        identify_uri(str(tmp_path))
    for name in ("a", "b"):
        save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"a folder of 2 weights files: name one of them.*a.safetensors"):
        identify_uri(str(tmp_path))


# --- anything ---


@pytest.mark.parametrize(
    ("tensors", "family"),
    [
        ({"a\n<b>": z(768), "c": z(768)}, "unknown"),
        ({"x\nemb_params": z(768), "c": z(768)}, "unknown"),
        ({"lora_unet_a.lora_down.weight": z(4), "lora_unet_a.alpha": torch.tensor(1 + 2j)}, "lora"),
        ({"lora_unet_a.lora_down.weight": z(), "lora_unet_a.alpha": torch.tensor(float("nan"))}, "lora"),
        ({f"down_blocks.{'9' * 5000}.motion_modules.0.processor.to_q_lora.down.weight": z(4, 4)}, "motion_lora"),
        (
            {
                "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": z(4),
                "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks."
                f"{'9' * 5000}.to_q.weight": z(4, 4),
            },
            "motion_module",
        ),
        ({f"{LDM}input_blocks.0.0.weight": z(), "first_stage_model.decoder.conv_in.weight": z(2)}, "checkpoint"),
        ({"string_to_param.*": z()}, "textual_inversion"),
    ],
)
def test_odd_files_are_told_too(tensors, family):
    assert identify(TensorFile("x", tensors)).family == family


FRAGMENTS = sorted({part for tensors, _ in ROWS.values() for name in tensors for part in name.split(".")})
NAMES = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(".".join),
    st.sampled_from(sorted({name for tensors, _ in ROWS.values() for name in tensors})),
    st.lists(
        st.sampled_from(
            ["down_blocks", "motion_modules", "attn2", "to_k", "lora_down", "weight", "\n", "<a>", "9" * 5000]
        ),
        max_size=6,
    ).map("_".join),
)
SHAPES = st.lists(st.integers(0, 9), max_size=5)
DTYPES = st.sampled_from(
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.float8_e4m3fn,
    ]
)


@given(
    st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), max_size=6),
    st.dictionaries(
        st.sampled_from(["modelspec.title", "lora_adapter_metadata", "motion_config", "ss_base_model_version"]),
        st.one_of(st.text(max_size=20), st.sampled_from(["{}", '["', "[[", '{"a.lora_alpha": NaN}', "null", '"x"'])),
    ),
)
def test_anything_has_an_identity(content, metadata):
    tensors = {name: torch.ones(shape, dtype=torch.float32).to(dtype) for name, (shape, dtype) in content.items()}
    found = identify(TensorFile("x", tensors, metadata))
    assert 0 <= found.parameters <= sum(tensor.numel() for tensor in tensors.values())
    for text in (found.note, found.alpha, *found.metadata.values()):
        assert text is None or text.isprintable()
    with pytest.raises(UserError):
        expect_family(TensorFile("x", tensors, metadata), set())
