import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from animatediff.data.captioning.captioner import load_captioner
from animatediff.data.captioning.captions import CaptionReason, CaptionRequest
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.captioning.wd_tagger import square_bgr, without_overlaps
from animatediff.errors import UserError
from tests.unit.data.captioning import own_functions

ROWS = [
    "tag_id,name,category,count",
    "1,general,9,100",
    "2,1girl,0,90",
    "3,blue_sky,0,80",
    "4,red_theme,0,70",
    "5,>_<,0,60",
    "6,red_(series),4,50",
    "7,very_blue_sky,0,40",
    "8,o_o,0,30",
]
SIDE = 8
# Of the mean of blue, green and red, as shares, what each output adds up: rating, 1girl, blue_sky ...
WEIGHTS = np.array(
    [[9, 9, 9], [1, 1, 2], [9, 0, 0], [0, 0, 9], [0, 9, 0], [0, 0, 3], [-9, 0, 0], [0, 8, 0]], np.float32
).T


def probabilities(pictures):
    assert pictures.dtype == np.float32
    return 1 / (1 + np.exp(-(pictures.mean((1, 2)) / 255 @ WEIGHTS - 1)))


@pytest.fixture
def runtime(monkeypatch):
    """Onnxruntime's part, which is to run a network: this one is in NumPy."""
    ran = SimpleNamespace(
        shape=["batch_size", SIDE, SIDE, 3], output=probabilities, batches=[], providers=None, threads=0
    )

    class Session:
        def __init__(self, path, options, providers):
            ran.providers, ran.threads = providers, options.intra_op_num_threads

        def get_inputs(self):
            return [SimpleNamespace(name="input_1:0", shape=ran.shape)]

        def run(self, names, inputs):
            assert names is None
            ran.batches.append(inputs["input_1:0"])
            return [ran.output(inputs["input_1:0"])]

    module = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        InferenceSession=Session,
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return ran


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "selected_tags.csv").write_text("\n".join(ROWS) + "\n")
    (tmp_path / "model.onnx").write_bytes(b"a network")
    return tmp_path


def results(folder, frames, **fields):
    tags = {"folder": str(folder)} | fields.pop("tags", {})
    return list(load_captioner(CaptionConfig(tags=tags, **fields)).caption_all([CaptionRequest("s", frames)]))


def of_colour(*rgb, n=1, h=12, w=12):
    return np.broadcast_to(np.array(rgb, np.uint8), (n, h, w, 3))


def test_colours_reach_the_model_as_blue_green_red(folder, runtime):
    (result,) = results(folder, of_colour(255, 0, 0))
    assert result.tags == ("1girl", "red (series)", "red theme")
    assert (result.caption, result.reason, result.model) == ("1girl, red (series), red theme", None, str(folder))
    assert runtime.providers == ["CPUExecutionProvider"]
    (result,) = results(folder, of_colour(0, 0, 255))
    assert result.tags == ("1girl", "blue sky")
    (result,) = results(folder, of_colour(0, 255, 0))
    assert result.tags == ("1girl", ">_<", "o_o")


def test_thresholds_number_and_exclusion(folder, runtime):
    red = of_colour(255, 0, 0)
    assert results(folder, red, tags={"character_threshold": 0.9})[0].tags == ("1girl", "red theme")
    assert results(folder, red, tags={"threshold": 0.8})[0].tags == ("red (series)", "red theme")
    assert results(folder, red, tags={"most": 2})[0].tags == ("1girl", "red (series)")
    assert results(folder, red, tags={"exclude": ("red_theme", "1girl")})[0].tags == ("red (series)",)


def test_a_shot_without_a_probable_tag_has_a_reason(folder, runtime):
    (result,) = results(folder, of_colour(0, 0, 0))
    assert (result.caption, result.tags, result.reason) == ("", (), CaptionReason.EMPTY)


def test_a_tag_is_taken_that_is_probable_on_average_of_frames_over_the_shot(folder, runtime):
    frames = np.concatenate([of_colour(255, 0, 0, n=60), of_colour(0, 0, 255, n=20)])
    assert results(folder, frames)[0].tags == ("1girl", "red theme", "blue sky")
    assert [len(batch) for batch in runtime.batches] == [4]


def test_models_that_take_one_picture_at_a_time(folder, runtime):
    runtime.shape = [1, SIDE, SIDE, 3]
    results(folder, of_colour(255, 0, 0, n=3))
    assert [batch.shape for batch in runtime.batches] == [(1, SIDE, SIDE, 3)] * 3


def test_tags_and_captions_are_put_together(folder, runtime):
    function = f"{own_functions.__name__}:brightness"
    (result,) = results(folder, of_colour(255, 0, 0), function=function, template="{tags:1}: {caption}")
    assert result.caption == "1girl: a picture of level 85"
    assert result.tags == ("1girl", "red (series)", "red theme")
    assert result.model == f"{function} + {folder}"


def test_a_picture_is_centred_on_white_and_averaged_by_area():
    frame = np.zeros((4, 12, 3), np.uint8)
    frame[..., 0] = 90
    square = square_bgr(frame, 6)
    assert square.dtype == np.float32
    assert (square[:2] == 255).all()
    assert (square[4:] == 255).all()
    assert (square[2:4] == (0, 0, 90)).all()


def test_the_average_counts_parts_of_pixels():
    row = np.array([0, 90, 180], np.uint8)
    frame = np.broadcast_to(row[None, :, None], (3, 3, 3))
    # Each of two pixels covers one and a half: (0 + 90 / 2) / 1.5 and (90 / 2 + 180) / 1.5.
    assert square_bgr(frame, 2)[0, :, 0].tolist() == [30, 150]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
    by_whole_steps = np.asarray(Image.fromarray(noise).reduce(5), int)[..., ::-1]
    assert np.abs(square_bgr(noise, 8) - by_whole_steps).max() <= 1


@pytest.mark.parametrize(("h", "w"), [(360, 640), (500, 449), (448, 448)])
def test_opencv_reduces_a_picture_to_the_same(h, w):
    cv2 = pytest.importorskip("cv2")
    frame = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    pad = [((n - s) // 2, n - s - (n - s) // 2) for n, s in zip([max(h, w)] * 2, (h, w), strict=True)]
    square = np.pad(frame, [*pad, (0, 0)], constant_values=255)[..., ::-1]
    expected = cv2.resize(square, (448, 448), interpolation=cv2.INTER_AREA)
    assert np.abs(square_bgr(frame, 448) - expected).max() <= 1


def test_small_pictures_grow():
    assert square_bgr(np.full((3, 3, 3), 7, np.uint8), 8).tolist() == np.full((8, 8, 3), 7.0).tolist()


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["long hair", "very long hair"], ["very long hair"]),
        (["hair", "long hair", "chair"], ["long hair", "chair"]),
        (["smile", "smile"], ["smile", "smile"]),
        (["o_o", "no_onion"], ["o_o", "no_onion"]),
        ([], []),
    ],
)
def test_a_tag_that_another_says_as_well_is_left_out(names, left):
    assert without_overlaps(names) == left


def test_a_missing_file_is_told(folder, runtime):
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"has no model\.onnx"):
        results(folder, of_colour(0, 0, 0))


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "no tags"), ("tag_id,name\n1,a\n", "row 1"), ("name,category\na,x\n", "row 1"), ("\xff", "decode")],
)
def test_a_file_of_tags_that_is_none(folder, runtime, text, told):
    (folder / "selected_tags.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"selected_tags.csv: .*{told}"):
        results(folder, of_colour(0, 0, 0))


@pytest.mark.parametrize("shape", [["n", 3, SIDE, SIDE], ["n", SIDE, SIDE], ["n", "h", "w", 3]])
def test_a_network_that_is_no_wd_tagger(folder, runtime, shape):
    runtime.shape = shape
    with pytest.raises(UserError, match="WD taggers want"):
        results(folder, of_colour(0, 0, 0))


@pytest.mark.parametrize("output", [lambda p: probabilities(p)[:, :-1], lambda p: probabilities(p) * 9 - 4])
def test_a_network_of_other_tags(folder, runtime, output):
    runtime.output = output
    with pytest.raises(UserError, match="copy both from one model"):
        results(folder, of_colour(200, 0, 0))


def test_a_network_that_fails_is_told(folder, runtime):
    runtime.output = lambda pictures: 1 // 0
    with pytest.raises(UserError, match=r"model\.onnx: ZeroDivisionError"):
        results(folder, of_colour(200, 0, 0))


def test_without_onnxruntime_its_name_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        results(folder, of_colour(0, 0, 0))


def test_a_name_that_is_no_folder_is_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such folder, and model.onnx of a model of this name cannot be had"):
        results("someone/wd-tagger-that-is-not-there", of_colour(0, 0, 0))


def test_onnxruntime_itself_gives_the_same(folder):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper = onnx.helper
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]
    constants = {"axes": np.array([1, 2]), "weights": WEIGHTS / 255, "bias": np.array([-1], np.float32)}
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch_size", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch_size", WEIGHTS.shape[1]])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (result,) = results(folder, of_colour(255, 0, 0, n=3))
    assert result.tags == ("1girl", "red (series)", "red theme")
    (folder / "model.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"model\.onnx: "):
        results(folder, of_colour(255, 0, 0))
