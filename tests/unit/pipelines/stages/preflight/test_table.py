from pipelines.stages.preflight.table import Row, render


def test_equal_answers_are_one_line_and_each_fault_is_its_own():
    rows = [
        Row("disk", "10.0.0.1", "9 GB free"),
        Row("disk", "10.0.0.2", "9 GB free"),
        Row("disk", "10.0.0.3", "/tmp has 1 GB free", "delete old files"),
        Row("disk", "10.0.0.4", "/tmp has 1 GB free", "delete old files"),
        Row("base", "10.0.0.1", "sd15"),
    ]
    assert render(rows).splitlines() == [
        "check  node             found",
        "disk   2 nodes   ok     9 GB free",
        "disk   10.0.0.3  FAULT  /tmp has 1 GB free; delete old files",
        "disk   10.0.0.4  FAULT  /tmp has 1 GB free; delete old files",
        "base   10.0.0.1  ok     sd15",
    ]
