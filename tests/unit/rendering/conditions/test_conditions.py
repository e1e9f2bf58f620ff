"""Controls and image prompts of catalogs: their pictures lead the clips, count by content, and leave nothing behind."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.checks.catalog import check
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.support_base import build_base
from tests.support_controls import build_controls

BARE = Entry(name="bare", prompts=("x",))
NUM_FRAMES = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return build_controls(folder / "controls", folder / "base")


@pytest.fixture(scope="module")
def animator(folder):
    path = str(folder / "motion.safetensors")
    return Animator(str(folder / "base"), path, schedule=NoiseSchedule(), device="cpu")


def item(files, **changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 2}
    size = {"width": 32, "height": 16, "num_frames": NUM_FRAMES}
    return Item(digest="0", entry="x", model="", **(settings | size | named(files, changes)))


def named(files, value):
    """Paths in the place of the files' names."""
    if isinstance(value, dict):
        return {key: named(files, each) for key, each in value.items()}
    if isinstance(value, list):
        return [named(files, each) for each in value]
    return files.get(value, value) if isinstance(value, str) else value


def rendered(animator, files, **changes):
    animator.load(BARE)
    return animator.render(item(files, **changes))


def control(net="control_net", **changes):
    return {"net": net} | ({} if "video" in changes else {"pictures": "one"}) | changes


def image(**changes):
    return {"adapter": "adapter", "pictures": "one"} | changes


IMAGES = {"images": [image()], "image_encoder": "image_encoder"}
KINDS = {
    "a ControlNet": {"controls": [control()]},
    "a ControlNet of a video": {"controls": [control(video="video")]},
    "a ControlNet at some frames": {"controls": [control(pictures=["one", "other"], frames=[0, -1])]},
    "a ControlNet in guess mode": {"controls": [control(guess_mode=True)]},
    "a ControlNet at some steps": {"controls": [control(end=0.5)]},
    "a ControlNet that fades": {"controls": [control(scale={0: 1.0, -1: 0.0})]},
    "edges": {"controls": [control(preprocess="canny")]},
    "a pooled ControlNet": {"controls": [control(global_pool_conditions=True)]},
    "SparseCtrl of a picture": {"controls": [control("rgb")]},
    "SparseCtrl of two pictures": {"controls": [control("rgb", pictures=["one", "other"], frames=[0, -1])]},
    "SparseCtrl of a scribble": {"controls": [control("drawing", preprocess="scribble")]},
    "two networks": {"controls": [control(), control("rgb")]},
    "an image": IMAGES,
    "two images": {**IMAGES, "images": [image(pictures=["one", "other"])]},
    "an image a frame": {**IMAGES, "images": [image(pictures=["one", "other"], frames=[0, -1])]},
    "an image at half the scale": {**IMAGES, "images": [image(scale=0.5)]},
    "an image where a mask is": {**IMAGES, "images": [image(mask="other")]},
    "an image and a network": {**IMAGES, "controls": [control()]},
    "a network with windows": {"controls": [control(video="video")], "context": Context(length=2, overlap=1)},
    "a network with a second pass": {"controls": [control()], "second_pass": {"scale": 2.0}},
    "a network with FreeInit": {"controls": [control()], "free_init": {"iterations": 2}},
    "a network from a picture": {"controls": [control()], "init_image": "other"},
    "a network in a loop": {"controls": [control("rgb")], "loop": True},
    "a network without guidance": {"controls": [control()], "guidance_scale": 1.0},
    "an image with prompts by frame": {**IMAGES, "prompt": {0: "a red circle", 2: "a blue square"}},
}


@pytest.fixture(scope="module")
def clips(animator, files):
    return {name: rendered(animator, files, **settings) for name, settings in KINDS.items()}


def test_each_leads_to_a_clip_of_its_own(clips, animator, files):
    found = {name: clip.tobytes() for name, clip in clips.items()} | {"none": rendered(animator, files).tobytes()}
    assert len(set(found.values())) == len(KINDS) + 1


@pytest.mark.parametrize("name", KINDS)
def test_a_b_a_leaves_nothing_behind(animator, files, clips, name):
    """After all the others, with the plain clip between."""
    rendered(animator, files)
    assert np.array_equal(rendered(animator, files, **KINDS[name]), clips[name])


@pytest.mark.parametrize(
    "settings",
    [
        {"controls": [control(scale=0.0)]},
        {"controls": [control(start=0.9, end=0.95)]},
        {**IMAGES, "images": [image(scale=0.0)]},
    ],
    ids=["scale 0", "no step", "image of scale 0"],
)
def test_what_has_no_say_changes_no_bit(animator, files, settings):
    assert np.array_equal(rendered(animator, files, **settings), rendered(animator, files))


def test_a_clip_does_not_depend_on_its_neighbours(animator, files):
    animator.load(BARE)
    settings = KINDS["an image and a network"]
    items = [item(files, seed=seed, prompt=prompt, **settings) for seed, prompt in ((1, "a cat"), (2, "a red star"))]
    together = animator.render_batch(items)
    for each, clip in zip(items, together, strict=True):
        assert np.array_equal(animator.render(each), clip.frames)


SHOWN = {
    "a ControlNet of a video": [("control 1: ControlNet", ["frame 0", "frame 1", "frame 2"])],
    "edges": [("control 1: ControlNet, canny", ["every frame"])],
    "SparseCtrl of two pictures": [("control 1: SparseCtrl", ["frame 0", "frame 2"])],
    "two networks": [("control 1: ControlNet", ["every frame"]), ("control 2: SparseCtrl", ["frame 0"])],
    "an image where a mask is": [("image 1: IP-Adapter", ["every frame", "mask"])],
    "a network from a picture": [("init image", ["every frame"]), ("control 1: ControlNet", ["every frame"])],
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_clip_carries_what_led_it(animator, files, name):
    animator.load(BARE)
    (clip,) = animator.render_batch([item(files, **KINDS[name])])
    shown = [(condition.name, [each.caption for each in condition.pictures]) for condition in clip.conditions]
    assert shown == SHOWN[name]


def test_it_carries_the_pictures_as_the_networks_saw_them(animator, files):
    animator.load(BARE)
    both = [control(), control(preprocess="canny")]
    (clip,) = animator.render_batch([item(files, controls=both, **IMAGES)])
    plain, edges, image = (condition.pictures[0].pixels for condition in clip.conditions)
    assert plain.shape == edges.shape == (16, 32, 3)
    assert len(np.unique(plain)) > 2
    assert set(np.unique(edges)) <= {0, 255}
    assert image.shape == (32, 32, 3)  # CLIP's square


def test_a_clip_without_conditions_carries_none(animator, files):
    animator.load(BARE)
    assert animator.render_batch([item(files)])[0].conditions == ()


def test_each_clip_of_a_batch_carries_what_it_began_from(animator, files):
    animator.load(BARE)
    first, second = animator.render_batch([item(files, init_image="one"), item(files, init_image="other")])
    shown = [clip.conditions[0].pictures[0].pixels for clip in (first, second)]
    assert not np.array_equal(*shown)


def test_frames_without_a_picture_are_not_led_by_a_control_net(animator, files):
    """The image network sees each frame alone, but the motion module mixes them: its prediction of others differs."""
    black = Image.new("RGB", (64, 48))
    path = files["one"].replace("one.png", "black.png")
    black.save(path)
    led = rendered(animator, files, controls=[control(frames=[0])])
    everywhere = rendered(animator, files, controls=[control(pictures=["one", path, path], frames=[0, 1, 2])])
    assert not np.array_equal(led, everywhere)


def test_a_folder_is_its_pictures_in_order_of_their_numbers(animator, files, folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, source in (("frame10.png", "other"), ("frame9.png", "one"), ("notes.txt", "one")):
        shutil.copyfile(files[source], pictures / name)
    by_folder = rendered(animator, files, controls=[control("rgb", pictures=str(pictures), frames=[0, 2])])
    one_by_one = rendered(animator, files, controls=[control("rgb", pictures=["one", "other"], frames=[0, 2])])
    assert np.array_equal(by_folder, one_by_one)


# --- catalogs ---


def catalog(folder, files, **entry):
    """Two entries, the second of which has the settings."""
    if "prompt" in entry:
        entry["prompts"] = [{"prompt": entry.pop("prompt")}]
    size = {"width": 32, "height": 16, "num_frames": NUM_FRAMES, "num_inference_steps": 2, "prompts": ["a cat"]}
    weights = {"base": str(folder / "base"), "motion_module": str(folder / "motion.safetensors")}
    return Catalog.model_validate(weights | size | {"entries": [{"name": "a"}, {"name": "b", **named(files, entry)}]})


def digest(folder, files, **entry):
    return expand(catalog(folder, files, **entry)).items[1].digest


def test_the_content_of_a_picture_counts_and_not_its_name(folder, files, tmp_path):
    for name, settings in KINDS.items():
        if name != "a ControlNet":
            assert digest(folder, files, **settings) != digest(folder, files, **KINDS["a ControlNet"]), name
    renamed = files | {name: str(tmp_path / f"renamed {name}{'.mp4' if name == 'video' else ''}") for name in files}
    for name in files:
        copy = shutil.copytree if name == "image_encoder" else shutil.copyfile
        copy(files[name], renamed[name])
    for settings in ({**IMAGES, "controls": [control(video="video")]}, KINDS["two images"]):
        assert digest(folder, renamed, **settings) == digest(folder, files, **settings)
    shutil.copyfile(files["other"], renamed["one"])
    assert digest(folder, renamed, **KINDS["a ControlNet"]) != digest(folder, files, **KINDS["a ControlNet"])


def test_an_image_encoder_that_nothing_reads_with_decides_nothing(folder, files):
    assert digest(folder, files, image_encoder="image_encoder") == digest(folder, files)


REFUSED = {
    "a file that is not there": ({"controls": [control(pictures="nowhere.png")]}, "no file or folder nowhere.png"),
    "a network that is not there": ({"controls": [control("nowhere.pt")]}, "controls.0: .*nowhere.pt"),
    "an adapter as a network": ({"controls": [control("adapter")]}, "IP-Adapter.*give it as `images:`"),
    "a network as an adapter": ({**IMAGES, "images": [image(adapter="rgb")]}, "SparseCtrl.*give it as `controls:`"),
    "no encoder": ({"images": [image()]}, "images.0: .*image_encoder"),
    "another folder": ({**IMAGES, "image_encoder": "base"}, "images.0: .*"),
    "a frame too many": ({"controls": [control("rgb", frames=[3])]}, "controls.0: there is no frame 3 in a clip of 3"),
    "a frame twice": ({"controls": [control("rgb", pictures=["one", "other"], frames=[2, -1])]}, "are the same one"),
    "too few pictures": ({"controls": [control(pictures=["one", "other"])]}, "2 pictures are too few for 3 frames"),
    "an unknown preprocessor": ({"controls": [control(preprocess="depth")]}, "no preprocessor depth"),
    "guess mode of SparseCtrl": ({"controls": [control("rgb", guess_mode=True)]}, "guess_mode is of ControlNets"),
    "a scale of no frame": ({"controls": [control(scale={7: 1.0})]}, "no frame 7 in a clip of 3"),
    "too long for SparseCtrl": (
        {"controls": [control("rgb")], "num_frames": 40, "context": {"length": 36}},
        "32 frames",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_together_is_refused_by_name(folder, files, name):
    settings, line = REFUSED[name]
    problems = check(catalog(folder, files, **settings))
    assert list(problems) == [1]
    with pytest.raises(UserError, match=line):
        raise UserError(problems[1])


def test_all_is_well_with_what_is_right(folder, files):
    for name, settings in KINDS.items():
        assert check(catalog(folder, files, **settings)) == {}, name


def test_a_picture_that_cannot_be_read_fails_its_item(animator, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"controls\.0: .*broken.png cannot be read as a picture"):
        rendered(animator, files, controls=[control(pictures=str(broken))])
