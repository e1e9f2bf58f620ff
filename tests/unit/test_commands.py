"""The `animatediff` command, in this process and in its own."""

import errno
import json
import subprocess
import sys

import fsspec
import numpy as np
import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file, save_file

from animatediff import storage
from animatediff.commands import main
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.outputs import encode_png
from animatediff.storage.errors import unreachable
from animatediff.weights import checkpoints, motion_modules
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.reading import files
from tests.support_base import build_base
from tests.support_weights import ldm_file
from tests.weights_samples import ATTN2, adapter, as_kohya, motion_lora

PLACE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


def run(capsys, *argv):
    """Exit code and the lines on standard output."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in argv])
    return ended.value.code, capsys.readouterr().out.splitlines()


def fail(capsys, *argv):
    """The one line that the command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (1, "", 1)
    return err


def small(tensors):
    """Tensors of the same names with memory; random, so that a copy is told from zeros."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn([min(n, 8) for n in t.shape], generator=generator).half() for name, t in tensors.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def lora(tmp_path):
    tensors = {
        f"lora_unet_{ATTN2.replace('.', '_')}_to_k.lora_down.weight": torch.zeros(8, 768),
        f"lora_unet_{ATTN2.replace('.', '_')}_to_k.lora_up.weight": torch.zeros(640, 8),
        f"lora_unet_{ATTN2.replace('.', '_')}_to_k.alpha": torch.tensor(4.0),
    }
    metadata = {"modelspec.title": "A cat", "modelspec.license": "CC-BY-4.0", "ss_network_dim": "8"}
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    return tmp_path / "lora.safetensors"


@pytest.fixture
def module(tmp_path):
    torch.manual_seed(0)
    widths = [32, 32, 64, 64]
    motion = MotionModules(
        MotionConfig.for_version("v2"),
        down=[[c, c] for c in widths],
        mid=64,
        up=[[c, c, c] for c in reversed(widths)],
    )
    motion_modules.write(str(tmp_path / "module.safetensors"), motion)
    return tmp_path / "module.safetensors"


# --- identify ---


def test_a_table_for_people(capsys, tmp_path, lora, module):
    (tmp_path / "page.safetensors").write_text("<html>")
    code, lines = run(capsys, "identify", lora, tmp_path / "page.safetensors", module)
    assert code == 1  # one of them cannot be read, and the others are told all the same
    header, rows = lines[0], [line for line in lines[1:] if not line.startswith(" ")]
    columns = {name: header.index(name) for name in header.split()}
    assert list(columns)[:4] == ["family", "version", "base", "rank"]
    for row, family, base, name in zip(
        rows,
        ("lora", "unreadable", "motion_module"),
        ("sd1", "-", "sd1"),
        (lora, tmp_path / "page.safetensors", module),
        strict=True,
    ):
        assert row.split()[0] == family
        assert row[columns["base"] :].split()[0] == base
        assert row[columns["file"] :] == str(name)
    assert rows[0].split()[3:7] == ["8", "4", "float32", f"{8 * (768 + 640):,}"]
    assert lines[2:4] == ["    title: A cat", "    licence: CC-BY-4.0"]
    assert "is a web page" in next(line for line in lines if line.startswith("    error: "))
    assert any(line.startswith("    note: AnimateDiff-Lightning") for line in lines)


def test_json_for_programs(capsys, tmp_path, lora):
    code, lines = run(capsys, "identify", lora, tmp_path / "nope.ckpt", "--json")
    assert code == 1
    found, broken = json.loads("\n".join(lines))
    assert found["parameters"] == 8 * (768 + 640)
    assert found["metadata"]["network dim"] == "8"
    assert (found["family"], found["rank"], len(found["sha256"])) == ("lora", "8", 64)
    assert broken.keys() == {"uri", "error"}
    code, lines = run(capsys, "identify", "--json", lora)
    assert (code, len(json.loads("\n".join(lines)))) == (0, 1)


def test_any_uri(capsys, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    with fsspec.open("memory://models/cat.safetensors", "wb") as file:
        file.write(lora.read_bytes())
    code, lines = run(capsys, "identify", "memory://models/cat.safetensors")
    assert code == 0
    assert lines[1].split()[0] == "lora"
    assert lines[1].endswith("memory://models/cat.safetensors")


def test_a_file_that_may_not_be_read(capsys, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_file({"emb_params": torch.zeros(1, 768)}, path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("animatediff.weights.identify.weights_file.open_tensors", refuse)  # root may read anything
    code, lines = run(capsys, "identify", path)
    assert code == 1
    assert lines[-1] == f"    error: cannot read {path}: Permission denied"


# --- convert ---


def test_motion_modules_there_and_back(capsys, tmp_path, module):
    code, lines = run(capsys, "convert", module, tmp_path / "adapter", "--to", "diffusers")
    assert code == 0
    parameters = sum(tensor.numel() for name, tensor in load_file(module).items() if "pos_encoder" not in name)
    what = f"a Stable Diffusion 1.x motion module (v2), diffusers layout, {parameters:,} parameters"
    assert lines == [f"wrote {tmp_path / 'adapter'}: {what}"]
    assert MotionAdapter.from_pretrained(tmp_path / "adapter").config.use_motion_mid_block
    code, lines = run(capsys, "convert", tmp_path / "adapter", tmp_path / "again.safetensors", "--to", "official")
    assert (code, lines[0].endswith(f"official layout, {parameters:,} parameters")) == (0, True)
    assert same(load_file(tmp_path / "again.safetensors"), load_file(module))


@pytest.mark.parametrize("kind", ["motion_lora", "domain_adapter"])
def test_low_rank_files_there_and_back(capsys, tmp_path, kind):
    tensors = small(motion_lora()) if kind == "motion_lora" else small(adapter(rank=8))
    save_file(tensors, tmp_path / "a.safetensors")
    code, lines = run(capsys, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "diffusers")
    assert (code, len(lines)) == (0, 1)
    assert all(".lora_A." in name or ".lora_B." in name for name in load_file(tmp_path / "b.safetensors"))
    if kind == "motion_lora":
        code, _ = run(capsys, "convert", tmp_path / "b.safetensors", tmp_path / "c.safetensors", "--to", "official")
        assert code == 0
        assert same(load_file(tmp_path / "c.safetensors"), tensors)


def test_checkpoints_become_folders(capsys, tmp_path, monkeypatch):
    base = str(build_base(tmp_path / "base", layers_per_block=2))
    modules = {"unet": load_unet(base), "vae": load_vae(base), "text_encoder": load_text_encoder(base)[1]}
    monkeypatch.setattr(checkpoints, "meta_modules", lambda _: modules)  # the known architectures are gigabytes
    states = {part: module.state_dict() for part, module in modules.items()}
    save_file(ldm_file(states), tmp_path / "model.safetensors")
    code, lines = run(capsys, "convert", tmp_path / "model.safetensors", tmp_path / "out", "--to", "diffusers")
    assert code == 0
    parameters = sum(parameter.numel() for module in modules.values() for parameter in module.parameters())
    assert lines == [f"wrote {tmp_path / 'out'}: a checkpoint, diffusers layout, {parameters:,} parameters"]
    written = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert same(written, states["unet"])


def test_a_conversion_that_fails_midway_leaves_nothing_and_can_be_repeated(capsys, tmp_path, module, monkeypatch):
    out = tmp_path / "out" / "adapter"
    write_bytes = storage.write_bytes

    def full(uri, data):
        raise unreachable(uri, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(storage, "write_bytes", full)
    assert "No space left" in fail(capsys, "convert", module, out, "--to", "diffusers")
    assert list(out.parent.iterdir()) == []
    monkeypatch.setattr(storage, "write_bytes", write_bytes)
    code, _ = run(capsys, "convert", module, out, "--to", "diffusers")
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_a_refused_conversion_names_what_the_user_named(capsys, tmp_path, module, monkeypatch):
    """Whoever refuses: each writer knows only the draft, which is not the user's."""
    for writer in ("animatediff.weights.motion_modules.convert", "animatediff.weights.lora.convert.convert"):

        def refuse(uri, out_uri, *, to):
            raise UserError(f"{out_uri} cannot hold what {uri} is")

        monkeypatch.setattr(writer, refuse)
    save_file(small(motion_lora()), tmp_path / "lora.safetensors")
    for source, target in ((module, "adapter"), (tmp_path / "lora.safetensors", "new.safetensors")):
        line = fail(capsys, "convert", source, tmp_path / target, "--to", "diffusers")
        assert line == f"animatediff: {tmp_path / target} cannot hold what {source} is\n"
        assert not (tmp_path / target).exists()


def test_the_word_of_an_embedding_is_told(capsys, tmp_path):
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}, "name": "inner"}, tmp_path / "easynegative.pt")
    _, lines = run(capsys, "identify", tmp_path / "easynegative.pt")
    assert any("word in prompts: easynegative" in line for line in lines)


def test_a_clip_says_what_it_was_made_from(capsys, tmp_path):
    path = tmp_path / "clip.png"
    made_from = {"prompt": '猫, "quoted"', "seed": "5"}
    path.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), metadata=made_from))
    code, lines = run(capsys, "metadata", path)
    assert (code, json.loads("\n".join(lines))) == (0, made_from)
    settings = {"controls": [{"net": "canny.pth", "scale": 0.5}]}
    texts = {"seed": "5", "settings": json.dumps(settings)}
    path.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), metadata=texts))
    assert json.loads("\n".join(run(capsys, "metadata", path)[1])) == {"seed": "5", "settings": settings}
    path.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    assert run(capsys, "metadata", path) == (1, ["{}"])
    path.unlink()
    assert "there is no" in fail(capsys, "metadata", path)


def test_what_is_not_converted_is_refused_by_name(capsys, tmp_path, lora, module):
    out = tmp_path / "out.safetensors"
    assert "needs no conversion" in fail(capsys, "convert", lora, out, "--to", "official")
    base = build_base(tmp_path / "base")
    assert "already" in fail(capsys, "convert", base, out, "--to", "diffusers")
    assert "to diffusers' layout only" in fail(capsys, "convert", base, out, "--to", "official")
    save_file({"a.b": torch.zeros(2)}, tmp_path / "b.safetensors")
    line = fail(capsys, "convert", tmp_path / "b.safetensors", out, "--to", "official")
    assert "no weights file of a known kind" in line
    assert "no file or folder" in fail(capsys, "convert", tmp_path / "nope", out, "--to", "official")
    assert not out.exists()
    save_file(small(as_kohya(adapter())), out)
    before = out.read_bytes()
    assert "left alone" in fail(capsys, "convert", module, out, "--to", "official")
    assert out.read_bytes() == before


# --- the command line itself ---


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--help"], 0), ([], 2), (["identify"], 2), (["nope"], 2), (["convert", "a", "b", "--to", "c"], 2)],
)
def test_exit_codes(capsys, argv, code):
    assert run(capsys, *argv)[0] == code


def test_in_its_own_process(lora):
    def command(*argv):
        return subprocess.run(
            [sys.executable, "-m", "animatediff", *map(str, argv)], capture_output=True, text=True, timeout=120
        )

    done = command("identify", lora)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("lora")
    refused = command("identify")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "animatediff: name the files: animatediff identify FILE [FILE ...]\n"


def test_identify_does_without_diffusers(lora):
    """It takes seconds to import, and nothing of it is needed to look at a LoRA."""
    code = (
        "import sys\nfrom animatediff.commands import main\n"
        "try: main(['identify', sys.argv[1]])\nexcept SystemExit: pass\n"
        "assert not {'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(lora)], check=True, capture_output=True, timeout=120)
