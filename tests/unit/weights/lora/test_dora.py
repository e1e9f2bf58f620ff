"""Weight-decomposed files (DoRA): peft's own numbers, and LyCORIS' formula for lengths of the inputs."""

import peft
import pytest
import torch
from torch import nn

from animatediff.weights.lora import lora_file
from animatediff.weights.resident import ResidentWeights, ScaledLora
from tests.support_lora import draw, write


class Model(nn.Module):
    """A projection and a convolution, under names of a UNet's."""

    def __init__(self):
        super().__init__()
        self.to_q, self.conv1 = nn.Linear(6, 5, bias=False), nn.Conv2d(4, 5, 3)

    def forward(self, x, image):
        return self.to_q(x), self.conv1(image)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().requires_grad_(False)


@pytest.fixture
def trained(model):
    """The same in peft, every part of its DoRA with numbers of its own."""
    config = peft.LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["to_q", "conv1"])
    torch.manual_seed(0)
    found = peft.get_peft_model(Model(), config)
    for name, parameter in found.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.abs() + draw(*parameter.shape, seed=len(name)).abs() * 0.3
    return found.requires_grad_(False)


@pytest.fixture
def folder(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_file_of_peft_is_what_peft_merges(model, trained, folder):
    resident = ResidentWeights({"unet": model})
    resident.load(None, [ScaledLora(folder)])
    inputs = draw(3, 6), draw(1, 4, 5, 5)
    with torch.no_grad():
        for own, other in zip(model(*inputs), trained(*inputs), strict=True):
            torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    resident.restore()
    assert all(torch.equal(new, old) for new, old in zip(model.parameters(), model_of_seed().parameters(), strict=True))


def model_of_seed():
    torch.manual_seed(0)
    return Model()


def test_half_of_it_is_half_of_the_way_and_others_are_added_to_it(model, folder, tmp_path):
    other = write(
        tmp_path / "other.safetensors",
        {"lora_unet_to_q.lora_down.weight": draw(1, 6), "lora_unet_to_q.lora_up.weight": draw(5, 1)},
    )
    resident, before, found = ResidentWeights({"unet": model}), model.to_q.weight.clone(), {}
    for name, loras in {
        "whole": [ScaledLora(folder)],
        "half": [ScaledLora(folder, 0.5)],
        "other": [ScaledLora(other)],
        "both": [ScaledLora(folder), ScaledLora(other)],
        "other way round": [ScaledLora(other), ScaledLora(folder)],
    }.items():
        resident.load(None, loras)
        found[name] = model.to_q.weight - before
    torch.testing.assert_close(found["half"], found["whole"] / 2)
    torch.testing.assert_close(found["both"], found["whole"] + found["other"])
    torch.testing.assert_close(found["both"], found["other way round"])


@pytest.mark.parametrize("key", ["to_q", "conv1"])
@pytest.mark.parametrize("per_input", [False, True])
def test_lycoris_lengths_say_by_their_shape_whose_they_are(model, tmp_path, key, per_input):
    weight = getattr(model, key).weight.double()
    ones = [1] * (weight.ndim - 2)
    shape = (1, weight.shape[1], *ones) if per_input else (weight.shape[0], 1, *ones)
    down, up, lengths = draw(2, *weight.shape[1:]), draw(weight.shape[0], 2, *ones), draw(*shape).abs() + 1
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0), "dora_scale": lengths}
    uri = write(tmp_path / "x.safetensors", {f"lora_unet_{key}.{name}": tensor for name, tensor in tensors.items()})
    ResidentWeights({"unet": model}).load(None, [ScaledLora(uri)])
    turned = weight + 0.5 * torch.einsum("or,r...->o...", up.double().flatten(1), down.double())
    for index in range(weight.shape[int(per_input)]):
        own, other = (w.select(int(per_input), index) for w in (getattr(model, key).weight.double(), turned))
        torch.testing.assert_close(own, other * lengths.flatten()[index].double() / other.norm(), atol=1e-5, rtol=1e-5)


def test_a_row_without_a_length_stays_without(model, tmp_path):
    model.to_q.weight[0] = 0
    up = draw(5, 2)
    up[0] = 0
    tensors = {"lora_down.weight": draw(2, 6), "lora_up.weight": up, "dora_scale": torch.ones(5, 1)}
    uri = write(tmp_path / "x.safetensors", {f"lora_unet_to_q.{name}": tensor for name, tensor in tensors.items()})
    ResidentWeights({"unet": model}).load(None, [ScaledLora(uri)])
    assert model.to_q.weight[0].eq(0).all()
    torch.testing.assert_close(model.to_q.weight[1:].norm(dim=1), torch.ones(4))


def test_a_loha_with_lengths_of_a_convolution(model, tmp_path):
    shape = model.conv1.weight.shape
    factors = {f"hada_w{n}_{ab}": draw(*s, seed=n) for n in (1, 2) for ab, s in (("a", (5, 2)), ("b", (2, 36)))}
    tensors = factors | {"alpha": torch.tensor(2.0), "dora_scale": torch.ones(1, 4, 1, 1)}
    uri = write(tmp_path / "x.safetensors", {f"lora_unet_conv1.{name}": tensor for name, tensor in tensors.items()})
    (delta,) = lora_file.read_deltas(uri, {"unet": model.state_dict()}, family="lora").values()
    changed = model.conv1.weight + delta.to(torch.device("cpu")).change_of(model.conv1.weight)
    assert delta.to(torch.device("meta")).change_of(model.conv1.weight.to("meta")).device.type == "meta"
    assert changed.shape == shape
    torch.testing.assert_close(changed.transpose(0, 1).flatten(1).norm(dim=1), torch.ones(4))
