"""The animate job on a real local Ray cluster: the same bytes in any order, faults as rows, and nothing done twice."""

import hashlib
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.outputs import read_metadata
from animatediff.rendering.results.ledger import read_results
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines import score
from pipelines.animate import main
from pipelines.settings import AnimateConfig, RecycleConfig, ScoreConfig
from tests.integration import in_process
from tests.integration.scraping import exported
from tests.support_base import build_base

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

PROMPTS = ["a red circle", "a blue square", "a green star", "a white heart", "a black ring"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module that moves, another base's folder as a checkpoint, a LoRA, and files that are broken."""
    folder = tmp_path_factory.mktemp("catalog")
    base = build_base(folder / "base")
    build_base(folder / "other", seed=1)
    motion = MotionModules.for_base(load_unet(str(base)), MotionConfig())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {
        f"{name}.lora_down.weight": torch.randn(2, 32, generator=generator),
        f"{name}.lora_up.weight": torch.randn(32, 2, generator=generator),
    }
    save_file(lora, folder / "lora.safetensors")
    (folder / "corrupt.safetensors").write_bytes(b"not a checkpoint")
    unet = load_file(next((folder / "other" / "unet").glob("*.safetensors")))
    (folder / "nan").mkdir()
    unet["conv_in.weight"][0] = float("nan")
    save_file(unet, folder / "nan" / "diffusion_pytorch_model.safetensors")
    sdxl = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{sdxl}.lora_down.weight": torch.zeros(4, 2048), f"{sdxl}.lora_up.weight": torch.zeros(640, 4)},
        folder / "sdxl.safetensors",
    )
    return folder


@pytest.fixture
def write(files, tmp_path):
    """Write a catalog with small settings; its path."""

    def catalog(entries, **changes):
        content = {
            "base": str(files / "base"),
            "motion_module": str(files / "motion.safetensors"),
            "width": 32,
            "height": 32,
            "num_frames": 4,
            "num_inference_steps": 2,
            "entries": entries,
        } | changes
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return catalog


def run(catalog, output, **options):
    """Render with one actor, which takes seconds to start, and without a palette, which takes one a clip."""
    options = {"num_actors": 1, "formats": ("mp4",)} | options
    main(AnimateConfig(catalog_uri=str(catalog), output_uri=str(output), **options))
    return read_results(str(output))


def test_the_same_bytes_in_any_order_on_any_number_of_actors(files, write, tmp_path):
    a = {"name": "a", "checkpoint": str(files / "other"), "prompts": PROMPTS}
    b = {"name": "b", "loras": [{"path": str(files / "lora.safetensors")}], "prompts": PROMPTS[:3]}
    again = {"name": "a", "checkpoint": str(files / "other"), "prompts": PROMPTS, "seeds": [7]}
    long = {"name": "long", "prompts": PROMPTS[:1], "num_frames": 22, "context": {"length": 8, "overlap": 2}}
    ways = [
        ([a, b, again, long], {"num_actors": 1}),
        # On Ray, and with a new process for every model: of three models one of the actors has two at least.
        ([again, long, b, a], {"num_actors": 2, "recycle": RecycleConfig(max_models=1)}),
    ]
    found = []
    for number, (entries, options) in enumerate(ways):
        output = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            if options["num_actors"] == 1:
                in_process.use(patch)
            results = run(write(entries), output, formats=("mp4", "png", "latents"), **options)
        found.append({(result.entry, result.prompt, result.seed): result for result in results})
    one, two = found
    assert len(one) == 5 + 3 + 5 + 1
    assert len({result.sha256["png"] for result in one.values()}) == len(one)
    assert {name: result.sha256 for name, result in two.items()} == {
        name: result.sha256 for name, result in one.items()
    }


def test_faults_are_rows_and_the_others_are_rendered(workers_here, files, write, tmp_path, caplog):
    def file(name):
        return str(files / f"{name}.safetensors")

    long = "a red circle " * 770  # 10,010 characters
    entries = [
        {"name": "bare", "prompts": ["a red circle", long]},
        {"name": "missing", "checkpoint": file("nowhere"), "prompts": PROMPTS[:2]},
        {"name": "corrupt", "checkpoint": file("corrupt"), "prompts": PROMPTS[:1]},
        {"name": "sdxl", "loras": [{"path": file("sdxl")}], "prompts": PROMPTS[:1]},
        {"name": "nan", "checkpoint": str(files / "nan"), "prompts": PROMPTS[:1]},
        {"name": "good", "loras": [{"path": file("lora")}], "prompts": PROMPTS[:2]},
        {"name": "same-as-bare", "prompts": ["a red circle"]},
    ]
    with pytest.raises(UserError, match=r"5 of 10 items failed, first error \(entry missing\): .*nowhere") as caught:
        run(write(entries), tmp_path / "out", batch_size=4)
    assert caught.value.exit_code == 1
    results = read_results(str(tmp_path / "out"))
    told = exported(tmp_path / "out")
    # Each item once, whatever shows it: nine digests, of which three are invalid.
    assert {series[1]: value for series, value in told.items() if series[0] == "animate_items_total"} == {
        "ok": 4,
        "failed": 2,
        "invalid": 3,
    }
    assert told["animate_model_swaps_total",] == 4  # bare, corrupt, nan, good
    assert 0 < told["animate_stage_seconds_total", "unet"] < 600
    assert [(result.entry, result.status) for result in results] == [
        ("bare", "ok"),
        ("bare", "ok"),
        ("missing", "invalid"),
        ("missing", "invalid"),
        ("corrupt", "failed"),
        ("sdxl", "invalid"),
        ("nan", "failed"),
        ("good", "ok"),
        ("good", "ok"),
        ("same-as-bare", "ok"),
    ]
    said = [result.error for result in results]
    assert said[2] == said[3] == f"checkpoint: there is no file or folder {file('nowhere')}"
    assert "is no weights file" in said[4]
    assert "SDXL" in said[5]
    assert "conv_in.weight NaN or infinite" in said[6]
    assert "75 are read" in results[1].warning
    assert results[0].warning is None
    assert results[0].digest == results[9].digest
    assert results[0].files == results[9].files
    for result in results:
        if result.status == "ok":
            data = (tmp_path / "out" / result.files["mp4"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == result.sha256["mp4"]
            assert result.seconds["unet"] > 0
    told = read_metadata(str(tmp_path / "out" / results[7].files["mp4"]))
    assert (told["prompt"], told["model"], told["seed"]) == ("a red circle", "good", "0")
    assert file("lora") in json.loads(told["model_hashes"])


SPRITES = "animatediff.sprites.scoring:score"


def scored(output, **options):
    score.main(ScoreConfig(output_uri=str(output), **{"scorer": SPRITES} | options))
    return read_results(str(output))


def test_clips_are_scored_once_and_a_rerun_renders_what_is_missing_and_nothing_else(
    workers_here, write, tmp_path, caplog
):
    caplog.set_level("INFO", logger="pipelines")
    entries = [{"name": "bare", "prompts": PROMPTS[:4]}, {"name": "same-as-bare", "prompts": PROMPTS[:1]}]
    path, output = write(entries), tmp_path / "out"
    run(path, output)
    results = scored(output)
    for result in results:
        assert {"shape", "style", "stays itself"} <= result.scores[SPRITES].keys()
        assert (result.scores.keys(), result.score_errors) == ({SPRITES}, {})
    assert results[4].scores == results[0].scores  # one clip, two entries
    assert "mean scores" in (output / "index.html").read_text()

    # Scored already: nothing is read, not even a clip that is broken by now.
    clip = output / results[1].files["mp4"]
    whole = clip.read_bytes()
    clip.write_bytes(b"not a video".ljust(len(whole)))  # of another size it would count as gone at once
    assert scored(output) == results

    # Where it is read, it is known as damaged, and is shown no longer.
    with pytest.raises(
        UserError, match=r"1 of 5 items cannot be scored, first \(entry bare\): its clip is gone or damaged"
    ):
        scored(output, again=True)
    again = read_results(str(output))
    assert again[0] == results[0]
    assert (again[1].scores, again[1].status, again[1].files) == ({}, "failed", {})

    # The animate job renders it again, one that is gone, and one that is damaged and nobody knows of; no other.
    (output / results[2].files["mp4"]).unlink()
    unknown = output / results[3].files["mp4"]
    unknown.write_bytes(b"not a video".ljust(unknown.stat().st_size))
    before = {path: path.stat().st_mtime_ns for path in (output / "clips").iterdir()}
    rendered = run(path, output)
    assert "3 of 5 items to render" in caplog.text
    assert [result.sha256 for result in rendered] == [result.sha256 for result in results]
    assert clip.read_bytes() == whole
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert {path.name.partition(".")[0] for path in changed} == {results[i].digest[:16] for i in (1, 2, 3)}
    run(path, output)
    assert "nothing to render: 5 of 5 items are there" in caplog.text

    # A clip that kills whoever measures it costs no other clip its scores.
    crashed = scored(output, again=True, scorer="tests.integration.scorers:crash_on_red")
    crashing = "tests.integration.scorers:crash_on_red"
    assert (crashed[0].prompt, crashed[0].scores) == ("a red circle", {SPRITES: results[0].scores[SPRITES]})
    assert "or crashed; its log: " in crashed[0].score_errors[crashing]
    # It has its own beside those of the scorer before, but for the clip that was rendered anew since.
    assert (crashed[1].prompt, crashed[1].scores) == ("a blue square", {crashing: {"length": 4.0}})


def test_a_catalog_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path):
    missing = tmp_path / "none.yaml"
    with pytest.raises(UserError, match=f"^catalog_uri: there is no file {missing}") as caught:
        run(missing, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
