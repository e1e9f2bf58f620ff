"""IP-Adapter files: what is told of them, and which are refused, by what name."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from animatediff.commands import main
from animatediff.errors import UserError
from animatediff.weights.controls import ip_adapter_file
from animatediff.weights.identify.weights_file import identify_uri
from tests.support_ip_adapter import EMBEDDING_WIDTH, STATES_WIDTH, ip_adapter, write_ip_adapter

SD = {"sample_size": 8, "block_out_channels": (32, 32, 64, 64), "attention_head_dim": 8}


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet2DConditionModel(**SD, cross_attention_dim=768)


@pytest.fixture(scope="module")
def xl_unet():
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            attention_head_dim=(2, 4, 8),
            cross_attention_dim=2048,
        )


@pytest.fixture
def tensors(unet):
    return ip_adapter(unet)


def saved(tensors, tmp_path):
    save_file(tensors, tmp_path / "adapter.safetensors")
    return str(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize(
    ("variant", "note"),
    [
        ("base", f"4 tokens of a picture; it reads CLIP embeddings of {EMBEDDING_WIDTH} numbers"),
        ("plus", f"5 tokens of a picture; it reads CLIP states of {STATES_WIDTH} numbers"),
        ("full-face", f"a token of each state; it reads CLIP states of {STATES_WIDTH} numbers"),
        ("FaceID", "4 tokens of a picture; it reads a face recognition model's vectors"),
        ("FaceID plus", "4 tokens of a picture; it reads a face recognition model's vectors"),
    ],
)
def test_what_a_file_is_told_to_be(unet, tmp_path, capsys, variant, note):
    uri = write_ip_adapter(tmp_path / "x.safetensors", unet, variant)
    found = identify_uri(uri)
    assert (found.family, found.version, found.base, found.text_width) == ("ip_adapter", variant, "sd1", 768)
    assert note in found.note
    with pytest.raises(SystemExit):
        main(["identify", uri])
    assert note in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("variant", ["base", "plus", "full-face"])
def test_a_file_is_the_state_dict(unet, tmp_path, variant):
    tensors = ip_adapter(unet, variant)
    adapter = ip_adapter_file.read(saved({name: t.half() for name, t in tensors.items()}, tmp_path))
    ip_adapter_file.check_fits(adapter, unet, "the base")
    state = adapter.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor.half().float()) for name, tensor in tensors.items())
    on_meta = ip_adapter_file.open_file(str(tmp_path / "adapter.safetensors"))
    assert {name: t.shape for name, t in on_meta.state_dict().items()} == {name: t.shape for name, t in state.items()}


def test_sdxl_has_its_own(unet, xl_unet, tmp_path):
    adapter = ip_adapter_file.open_file(write_ip_adapter(tmp_path / "xl.safetensors", xl_unet, "plus"))
    ip_adapter_file.check_fits(adapter, xl_unet, "the base")
    with pytest.raises(
        UserError, match=r"xl\.safetensors .*2048 numbers \(SDXL\).* 768 numbers \(Stable Diffusion 1\.x\)"
    ):
        ip_adapter_file.check_fits(adapter, unet, "the base")


@pytest.mark.parametrize("variant", ["FaceID", "FaceID plus", "InstantID"])
def test_adapters_of_faces_are_refused_by_name(unet, tmp_path, variant):
    options = {"variant": "plus", "clip_width": 512} if variant == "InstantID" else {"variant": variant}
    uri = write_ip_adapter(tmp_path / "face.safetensors", unet, **options)
    with pytest.raises(UserError, match=rf"face\.safetensors is an IP-Adapter {variant},.* take a base, plus"):
        ip_adapter_file.open_file(uri)


def test_the_layers_must_be_the_bases(unet, tensors, tmp_path):
    def refused(change):
        changed = {new: t for name, t in tensors.items() if (new := change(name))}
        with pytest.raises(UserError) as error:
            ip_adapter_file.check_fits(ip_adapter_file.open_file(saved(changed, tmp_path)), unet, "the base")
        return str(error.value)

    lacking = refused(lambda name: None if ".31." in name else name)
    assert "it lacks ip_adapter.31, for mid_block.attentions.0.transformer_blocks.0.attn2" in lacking
    moved = refused(lambda name: name.replace(".31.", ".33."))
    assert "it lacks ip_adapter.31" in moved
    even = refused(lambda name: name.replace("ip_adapter.1.", "ip_adapter.2."))
    assert "it lacks ip_adapter.1," in even
    surplus = dict(tensors) | {name.replace(".31.", ".33."): t.clone() for name, t in tensors.items() if ".31." in name}
    with pytest.raises(UserError, match=r"it has ip_adapter\.33, and the base no cross-attention of that number"):
        ip_adapter_file.check_fits(ip_adapter_file.open_file(saved(surplus, tmp_path)), unet, "the base")
    # down, middle, up: what a reader of the modules' order would write
    numbers = {31: 13} | {n: n + 2 for n in range(13, 31, 2)}
    traversal = {
        ".".join([*name.split(".")[:1], str(numbers.get(int(n), int(n))), *name.split(".")[2:]])
        if (n := name.split(".")[1]).isdigit()
        else name: tensor
        for name, tensor in tensors.items()
    }
    with pytest.raises(UserError, match=r"ip_adapter\.\d+ is \d+ wide, .* is \d+"):
        ip_adapter_file.check_fits(ip_adapter_file.open_file(saved(traversal, tmp_path)), unet, "the base")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ip_adapter.5.to_v_ip.weight": None}, "ip_adapter.5.to_v_ip.weight is missing"),
        ({"ip_adapter.5.to_q_ip.weight": torch.ones(2, 2)}, "ip_adapter.5.to_q_ip.weight belongs to none"),
        ({"image_proj.proj.bias": None}, "image_proj.proj.bias is missing"),
        ({"image_proj.norm.bias": torch.ones(3)}, "image_proj.norm.bias is [3], not [768]"),
        ({"ip_adapter.5.to_k_ip.weight": torch.ones(32, 700)}, "ip_adapter.5.to_k_ip.weight is [32, 700], not [32, 7"),
        ({"ip_adapter.5.to_k_ip.weight": torch.ones(32, 768, dtype=torch.int8)}, "holds int8, not weights"),
        ({"ip_adapter.5.to_k_ip.weight": torch.tensor(1.0)}, "ip_adapter.5.to_k_ip.weight is [], not [1, 768]"),
        ({"ip_adapter.5.to_k_ip.weight": torch.ones(0, 768)}, "ip_adapter.5.to_k_ip.weight is empty"),
        ({"image_proj.proj.weight": torch.ones(3)}, "its image_proj is of no known kind"),
        ({"image_proj.proj.weight": None}, "its image_proj is of no known kind"),
        ({"image_proj.norm.weight": torch.ones(0)}, "its image_proj is of no known kind"),
    ],
    ids=str,
)
def test_what_is_not_whole_is_named(tensors, tmp_path, change, told):
    uri = saved({name: t for name, t in (tensors | change).items() if t is not None}, tmp_path)
    with pytest.raises(UserError) as error:
        ip_adapter_file.open_file(uri)
    assert str(error.value).startswith(f"{uri} is no whole IP-Adapter: ")
    assert told in str(error.value)


def test_broken_numbers_and_other_files_are_refused(tensors, tmp_path):
    tensors["ip_adapter.7.to_v_ip.weight"][3, 5] = torch.nan
    with pytest.raises(UserError, match=r"ip_adapter\.7\.to_v_ip\.weight has NaN or infinite values"):
        ip_adapter_file.read(saved(tensors, tmp_path))
    lora = {f"lora_unet_x.lora_{side}.weight": torch.ones(4, 4) for side in ("up", "down")}
    with pytest.raises(UserError, match=r"is a LoRA, not an IP-Adapter: give it as `loras:`"):
        ip_adapter_file.open_file(saved(lora, tmp_path))
