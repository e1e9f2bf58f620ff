"""Controls and image prompts of catalogs: their pictures lead the clips, count by content, and leave nothing behind."""

import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from animatediff.diffusion.context import Context, context_windows
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.checks.catalog import check
from animatediff.rendering.conditions.pictures import read_picture
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from tests.support_base import build_base
from tests.support_controls import build_controls

BARE = Entry(name="bare", prompts=("x",))
NUM_FRAMES = 3


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
    files = build_controls(folder / "controls", folder / "base")
    files |= {name: str(folder / name) for name in ("pictures", "empty")}
    Path(files["pictures"]).mkdir()
    Path(files["empty"]).mkdir()
    # Of two sizes, in the order of the numbers.
    for name, source in (("frame10.png", "other"), ("frame9.png", "one"), ("notes.txt", "one")):
        shutil.copyfile(files[source], Path(files["pictures"]) / name)
    return files


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
LCM = {"sampler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0}
LIGHTNING = {"sampler": "euler", "timestep_spacing": "trailing", "num_inference_steps": 4, "guidance_scale": 1.0}
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
    "SparseCtrl that keeps its pictures": {
        "controls": [control("rgb", pictures=["one", "other"], frames=[0, -1], keep=True)]
    },
    "kept pictures, larger, in windows": {
        "controls": [control("rgb", keep=True)],
        "second_pass": {"scale": 2.0},
        "context": Context(length=2, overlap=1),
    },
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
    "a network in few steps, as AnimateLCM's": {"controls": [control("rgb")], **LCM},
    "a network in few steps, as Lightning's": {"controls": [control(end=0.5)], **LIGHTNING},
    "a network with FreeInit in few steps": {"controls": [control()], "free_init": {"iterations": 2}, **LCM},
    "an image in few steps": {**IMAGES, **LCM},
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


def test_a_control_video_over_windows_leaves_no_seam(animator, files):
    """Frames change as much where a window begins or ends as elsewhere."""
    context, num_frames = Context(length=8, overlap=4), 24
    clip = rendered(animator, files, controls=[control(video="video")], num_frames=num_frames, context=context).astype(
        float
    )
    changes = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
    windows = context_windows(num_frames, context, loop=False, progress=0.0)
    borders = {frame for window in windows for frame in (window[0] - 1, window[-1])} & set(range(num_frames - 1))
    elsewhere = [frame for frame in range(num_frames - 1) if frame not in borders]
    assert len(borders) == 5
    assert changes[sorted(borders)].mean() < 1.25 * changes[elsewhere].mean()


def test_kept_pictures_are_frames_of_the_clip(animator, folder, files):
    """As the VAE has them; a frame that both controls give is the latter's."""
    picture, other = (read_picture(files[name], width=32, height=16) for name in ("one", "other"))
    base = str(folder / "base")
    codec = FrameCodec(load_vae(base).eval(), BaseFacts(base).scaling_factor)
    decoded = [codec.decode(codec.encode(each[None]))[0] for each in (picture, other)]
    both = control("rgb", pictures=["one", "one"], frames=[0, -1], keep=True)
    clip = rendered(animator, files, controls=[both, control("rgb", pictures="other", frames=[-1], keep=True)])
    for frame, expected in ((0, decoded[0]), (-1, decoded[1])):
        assert np.abs(clip[frame].astype(int) - expected).max() <= 1
    led = rendered(animator, files, controls=[control("rgb", pictures="one")])
    assert np.abs(led[0].astype(int) - decoded[0]).max() > 10


def test_what_cannot_be_kept_fails_its_item(animator, files):
    for net in ("control_net", "drawing"):
        with pytest.raises(UserError, match=r"controls\.0: keep is of SparseCtrl encoders of pictures"):
            rendered(animator, files, controls=[control(net, keep=True)])


def test_frames_without_a_picture_are_not_led_by_a_control_net(animator, files):
    """The image network sees each frame alone, but the motion module mixes them: its prediction of others differs."""
    black = Image.new("RGB", (64, 48))
    path = files["one"].replace("one.png", "black.png")
    black.save(path)
    led = rendered(animator, files, controls=[control(frames=[0])])
    everywhere = rendered(animator, files, controls=[control(pictures=["one", path, path], frames=[0, 1, 2])])
    assert not np.array_equal(led, everywhere)


@pytest.mark.parametrize(
    "settings", [{"controls": [control("rgb", frames=[0, 2])]}, {**IMAGES, "images": [image(frames=[0, 2])]}], ids=str
)
def test_a_folder_is_its_pictures_in_order_of_their_numbers(animator, files, settings):
    (field,) = settings.keys() & {"controls", "images"}
    clips = []
    for pictures in ("pictures", ["one", "other"]):
        changed = settings | {field: [settings[field][0] | {"pictures": pictures}]}
        clips.append(rendered(animator, files, **changed))
    assert np.array_equal(*clips)


# --- catalogs ---


def catalog(folder, files, **entry):
    """Two entries, the second of which has the settings."""
    return catalog_of(folder, files, {"b": entry})


def catalog_of(folder, files, entries):
    """An entry without settings, and those with the settings of each name."""
    entries = [{"name": name, **named(files, settings)} for name, settings in entries.items()]
    for entry in entries:
        if "prompt" in entry:
            entry["prompts"] = [{"prompt": entry.pop("prompt")}]
    size = {"width": 32, "height": 16, "num_frames": NUM_FRAMES, "num_inference_steps": 2, "prompts": ["a cat"]}
    weights = {"base": str(folder / "base"), "motion_module": str(folder / "motion.safetensors")}
    return Catalog.model_validate(weights | size | {"entries": [{"name": "a"}, *entries]})


def digest(folder, files, **entry):
    return expand(catalog(folder, files, **entry)).items[1].digest


def test_the_content_of_a_picture_counts_and_not_its_name(folder, files, tmp_path):
    for name, settings in KINDS.items():
        if name != "a ControlNet":
            assert digest(folder, files, **settings) != digest(folder, files, **KINDS["a ControlNet"]), name
    renamed = files | {name: str(tmp_path / f"renamed {name}{'.mp4' if name == 'video' else ''}") for name in files}
    for name in files:
        copy = shutil.copytree if Path(files[name]).is_dir() else shutil.copyfile
        copy(files[name], renamed[name])
    of_folder = {"controls": [control("rgb", pictures="pictures", frames=[0, 2])]}
    for settings in ({**IMAGES, "controls": [control(video="video")]}, KINDS["two images"], of_folder):
        assert digest(folder, renamed, **settings) == digest(folder, files, **settings)
    shutil.copyfile(files["other"], renamed["one"])
    assert digest(folder, renamed, **KINDS["a ControlNet"]) != digest(folder, files, **KINDS["a ControlNet"])


def test_an_image_encoder_that_nothing_reads_with_decides_nothing(folder, files):
    assert digest(folder, files, image_encoder="image_encoder") == digest(folder, files)


def test_all_files_may_be_remote(animator, folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    storage, remote = fsspec.filesystem("memory"), {}
    for name, path in files.items():
        local = Path(path)
        remote[name] = f"memory://{tmp_path.name}/{local.name}"
        for file in [local] if local.is_file() else filter(Path.is_file, local.rglob("*")):
            storage.pipe_file(f"memory://{tmp_path.name}/{file.relative_to(local.parent)}", file.read_bytes())
    settings = {
        **{**IMAGES, "images": [image(mask="other")], "init_image": "other"},
        "controls": [control(video="video"), control("rgb", pictures="pictures", frames=[0, 2])],
    }
    assert check(catalog(folder, remote, **settings)) == {}
    assert digest(folder, remote, **settings) == digest(folder, files, **settings)
    assert np.array_equal(rendered(animator, remote, **settings), rendered(animator, files, **settings))


def test_all_that_is_said_of_a_control_counts(folder, files):
    masked = {**IMAGES, "images": [image(mask="one")]}
    told = [
        *({"controls": [control(**change)]} for change in ({}, {"scale": 0.5}, {"scale": {0: 0.5, -1: 1.0}})),
        *({"controls": [control(**change)]} for change in ({"frames": [0]}, {"frames": [1]}, {"pictures": "other"})),
        *({"controls": [control(**change)]} for change in ({"start": 0.5}, {"end": 0.5}, {"guess_mode": True})),
        *({"controls": [control(preprocess=name)]} for name in ("canny", "scribble")),
        *({"controls": [control("rgb", keep=keep)]} for keep in (False, True)),
        *({"controls": controls} for controls in ([control(), control("rgb")], [control("rgb"), control()])),
        *(IMAGES, masked, {**masked, "images": [image(mask="other")]}, {**IMAGES, "images": [image(scale=0.5)]}),
        *({**IMAGES, "images": [image(pictures=names)]} for names in (["one", "other"], ["other", "one"])),
    ]
    assert len({digest(folder, files, **settings) for settings in told}) == len(told)
    before = digest(folder, files, **IMAGES)
    config = Path(files["image_encoder"]) / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    assert digest(folder, files, **IMAGES) != before
    config.write_text(text)
    assert digest(folder, files, **IMAGES) == before


REFUSED = {
    "a file that is not there": ({"controls": [control(pictures="nowhere.png")]}, "no file or folder nowhere.png"),
    "a network that is not there": ({"controls": [control("nowhere.pt")]}, "controls.0: .*nowhere.pt"),
    "a picture as a network": ({"controls": [control("one")]}, r"controls.0: .*one\.png is a picture, not weights"),
    "a folder as a video": ({"controls": [control(video="pictures")]}, r"controls.0.video: .*pictures is a folder"),
    "a folder among pictures": (
        {"controls": [control(pictures=["pictures", "one"], frames=[0, 1])]},
        r"controls.0.pictures: .*pictures is a folder, and one file is needed",
    ),
    "a folder as what a clip begins from": ({"init_image": "pictures"}, "init_image: .*pictures is a folder"),
    "a folder as a mask": ({**IMAGES, "images": [image(mask="pictures")]}, "images.0.mask: .*pictures is a folder"),
    "an empty folder": ({"controls": [control(pictures="empty")]}, "controls.0: there are no pictures in the folder"),
    "images of an empty folder": ({**IMAGES, "images": [image(pictures="empty")]}, "images.0: there are no pictures"),
    "more pictures in a folder than frames": (
        {**IMAGES, "images": [image(pictures="pictures", frames=[0])]},
        "images.0: 2 pictures do not go to 1 `frames`",
    ),
    "pictures that MLflow keeps": (
        {"controls": [control(pictures="models:/x/1")]},
        "pictures: models:/x/1 is MLflow's",
    ),
    "an adapter as a network": ({"controls": [control("adapter")]}, "IP-Adapter.*give it as `images:`"),
    "a network as an adapter": ({**IMAGES, "images": [image(adapter="rgb")]}, "SparseCtrl.*give it as `controls:`"),
    "no encoder": ({"images": [image()]}, "images.0: .*image_encoder"),
    "another folder": ({**IMAGES, "image_encoder": "base"}, "images.0: .*"),
    "a frame too many": ({"controls": [control("rgb", frames=[3])]}, "controls.0: there is no frame 3 in a clip of 3"),
    "a frame twice": ({"controls": [control("rgb", pictures=["one", "other"], frames=[2, -1])]}, "are the same one"),
    "too few pictures": ({"controls": [control(pictures=["one", "other"])]}, "2 pictures are too few for 3 frames"),
    "an unknown preprocessor": ({"controls": [control(preprocess="depth")]}, "no preprocessor depth"),
    "guess mode of SparseCtrl": ({"controls": [control("rgb", guess_mode=True)]}, "guess_mode is of ControlNets"),
    "a kept picture of a ControlNet": (
        {"controls": [control(keep=True)]},
        "controls.0: keep is of SparseCtrl encoders",
    ),
    "a kept drawing": (
        {"controls": [control("drawing", keep=True)]},
        "controls.0: keep is of SparseCtrl encoders of p",
    ),
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
    entries = {re.sub(r"[^\w-]+", "-", name): settings for name, settings in KINDS.items()}
    assert check(catalog_of(folder, files, entries)) == {}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"controls": [control(pictures="video")]},
            r"controls\.0: .*video\.mp4 cannot be read as a picture: it is none ",
        ),
        ({"controls": [control(video="one")]}, r"controls\.0: .*one\.png is a picture, and a video is needed here"),
        (
            {**IMAGES, "images": [image(pictures="adapter")]},
            r"images\.0: .*cannot be read as a picture: it is none of ",
        ),
        ({"init_image": "video"}, r"init_image: .*video\.mp4 cannot be read as a picture: it is none of PNG"),
        ({"init_video": "one"}, r"init_video: .*one\.png is a picture, and a video is needed here"),
    ],
    ids=str,
)
def test_what_is_no_picture_or_video_fails_its_item(animator, files, settings, line):
    with pytest.raises(UserError, match=line):
        rendered(animator, files, **settings)


@pytest.mark.parametrize(
    ("changes", "where", "line"),
    [
        ({"scale": float("nan")}, ("scale", "a number"), "finite"),
        ({"scale": {0: float("inf")}}, ("scale", "numbers by frame", 0), "finite"),
        ({"scale": "strong"}, ("scale", "a number"), "valid number"),
        ({"scale": [1, 0.5]}, ("scale",), "one number is needed, or numbers by frame, such as {0: 1, 15: 0.2}"),
        ({"video": "video", "frames": [0]}, (), "a video has a picture for every frame: leave them away"),
        ({"start": 0.8, "end": 0.2}, (), "start 0.8 is after end 0.2"),
        ({"pictures": []}, (), "needs `pictures` or a `video`"),
        ({"resize": "crop"}, ("resize",), "Extra inputs"),
    ],
    ids=str,
)
def test_what_no_control_can_mean_is_one_line_with_its_place(folder, files, changes, where, line):
    with pytest.raises(ValidationError) as caught:
        catalog(folder, files, controls=[control(**changes)])
    (error,) = caught.value.errors()
    assert error["loc"] == ("entries", 1, "controls", 0, *where)
    assert line in error["msg"]
