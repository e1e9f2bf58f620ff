import numpy as np

from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.curation import caption_parts, scan_parts
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.scan import scan_video
from animatediff.data.sources.spec import SourceVideo
from pipelines.stages.curate.caption import Caption
from pipelines.stages.curate.stage import CaptionBatch, CaptionSpec
from tests import support_episodes as episodes
from tests.unit.data.captioning import own_functions


def test_of_answers_that_cannot_be_used_one_is_told_for_each_reason(tmp_path):
    path = tmp_path / "a.mkv"
    episodes.write_video(path, episodes._drawn(np.random.default_rng(0), 30))
    video = SourceVideo("a", str(path), "")
    scan_parts.commit(
        str(tmp_path),
        "unit",
        scan_parts.shot_rows("unit", video, scan_video(path.read_bytes(), ShotConfig(min_s=0.1))),
        (),
    )
    shots = scan_parts.read_shots(str(tmp_path), ["unit"]).drop_columns(["video", "phashes"]).to_pylist()
    captions = CaptionConfig(function=f"{own_functions.__name__}:nothing", frames=2)
    spec = CaptionSpec(str(tmp_path), 0, captions, ScanLimits(), "cpu", True)
    (shot,) = shots
    longer = shot | {"shot_id": "longer", "num_frames": shot["num_frames"] + 1}
    result = Caption(spec).process(CaptionBatch("batch", [longer, shot]))
    assert (result.num_captions, result.reasons) == (0, {"not_copied": 1, "caption_empty": 1})
    assert result.examples.pop("not_copied").endswith(
        f" are shown from {shot['start_pts']} to {shot['last_pts']}, and {longer['num_frames']} are expected"
    )
    assert result.examples == {"caption_empty": f"{shot['shot_id']}: the answer has no words"}
    assert caption_parts.read(str(tmp_path), 0)[shot["shot_id"]].reason == "caption_empty"
