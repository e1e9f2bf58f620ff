"""Videos whose URIs hold secrets: the plan's files have them without, the workers with them, also on a rerun."""

import pytest

from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.plan import Planner, read_unit
from animatediff.data.ingest.unredacted_uris import UnredactedUris
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig, SourceVideo

SECRET = "S3cretValue"


@pytest.fixture
def dataset(tmp_path):
    return str(tmp_path / "dataset")


def every_byte(dataset, secret):
    """Names of the plan's files in which a text stands."""
    found = [(name, planning.read_plan_file(dataset, name).to_pylist()) for name in planning.plan_files(dataset)]
    assert found
    return [name for name, rows in found if secret in repr(rows)]


def plan(dataset, videos):
    """Plan the videos and give the units as the workers get them."""
    whole = UnredactedUris()
    planner = Planner(dataset, dataset_key="key", videos_per_unit=2)
    planner.resume(dataset)
    for batch in whole.remember([videos]):
        planner.add(batch)
    planner.finish()
    return whole.attach(dataset, planner.units)


def uris(dataset, units):
    return [video.uri for unit in units for video in read_unit(dataset, unit).videos]


SIGNED = [
    f"https://me:{SECRET}@h/0.mp4",
    f"https://h/1.mp4?X-Amz-Signature={SECRET}&v=1",
    "/local/2.mp4",
    f"https://h/3.tar?sig={SECRET}#offset=512&bytes=3",
    f"s3://key:{SECRET}@bucket/4.parquet#group=0&row=1&column=mp4",
    "s3://bucket/5.mp4",
]


def videos(uris):
    return [SourceVideo(str(number), uri, "a clip") for number, uri in enumerate(uris)]


def test_workers_get_what_the_plan_does_not_keep(dataset):
    units = plan(dataset, videos(SIGNED))
    assert uris(dataset, units) == SIGNED
    assert every_byte(dataset, SECRET) == []
    # A rerun goes on with the units that are there, with what the source says now.
    again = [uri.replace(SECRET, "N3wSecret") for uri in SIGNED]
    assert uris(dataset, plan(dataset, videos(again))) == again
    assert every_byte(dataset, "N3wSecret") == []


def test_a_source_that_lies_elsewhere_by_now_is_read_there(dataset):
    plan(dataset, videos(SIGNED))
    moved = [uri.replace("//h/", "//other/") for uri in SIGNED]
    assert uris(dataset, plan(dataset, videos(moved))) == moved


def test_a_plan_of_before_is_read_as_it_is(dataset, monkeypatch):
    monkeypatch.setattr(planning, "printable_uri", lambda uri: uri)
    old = plan(dataset, videos(SIGNED))
    monkeypatch.undo()
    assert uris(dataset, old) == SIGNED
    assert uris(dataset, plan(dataset, videos(SIGNED))) == SIGNED


def test_without_secrets_nothing_is_kept_in_memory(dataset):
    units = plan(dataset, videos(["/a.mp4", "s3://bucket/b.mp4", "https://h/c.mp4?v=1"]))
    assert all(unit.unredacted_uris == () for unit in units)


def test_relative_paths_begin_with_the_secrets_of_their_folder(tmp_path):
    (tmp_path / "videos.csv").write_text("path,caption\na.mp4,clip a\n")
    for folder, video in [
        (f"https://me:{SECRET}@h/in", f"https://me:{SECRET}@h/in/a.mp4"),
        (f"https://h/in?sig={SECRET}", f"https://h/in/a.mp4?sig={SECRET}"),
    ]:
        source = SourceConfig(uri=str(tmp_path / "videos.csv"), videos_uri=folder)
        ((found,),) = read_source(source)
        assert (found.video_id, found.uri) == ("a.mp4", video)
