"""What a run's journal keeps across kills, and who may open it."""

import resource
from contextlib import closing

import pytest

from benchmark.tracking.journal import Journal

LIMITS = {"metric": 2, "tag": 100}


def _entries(journal):
    return [(kind, content) for kind, contents, _ in journal.batches(LIMITS) for content in contents]


def test_entries_come_back_in_order_and_bundled_by_kind(tmp_path):
    with closing(Journal(tmp_path / "run.jsonl", create=True)) as journal:
        journal.append("metric", ["loss", 0.1], ["loss", float("inf")], ["loss", 1e-320])
        journal.append("tag", ["a", "ä\n"])
        journal.append("metric", ["loss", 4])
        batches = [(kind, contents) for kind, contents, _ in journal.batches(LIMITS)]
    assert batches == [
        ("metric", [["loss", 0.1], ["loss", float("inf")]]),
        ("metric", [["loss", 1e-320]]),
        ("tag", [["a", "ä\n"]]),
        ("metric", [["loss", 4]]),
    ]


def test_an_entry_that_a_full_disk_cuts_short_is_told_and_leaves_nothing(tmp_path):
    with closing(Journal(tmp_path / "run.jsonl", create=True)) as journal:
        journal.append("tag", "fits")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "run.jsonl").stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(OSError, match="No space left on device"):
                journal.append("tag", "x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        journal.append("tag", "room again")
        assert _entries(journal) == [("tag", "fits"), ("tag", "room again")]


def test_what_was_delivered_does_not_come_again(tmp_path):
    with closing(Journal(tmp_path / "run.jsonl", create=True)) as journal:
        journal.append("tag", *range(5))
        journal.append("metric", *range(5))
        kind, contents, end = next(journal.batches(LIMITS))
        assert (kind, contents) == ("tag", [0, 1, 2, 3, 4])
        journal.mark_delivered(end)
        journal.append("tag", "later")
    with closing(Journal(tmp_path / "run.jsonl")) as again:
        assert _entries(again) == [*(("metric", number) for number in range(5)), ("tag", "later")]


def test_a_line_cut_short_by_a_kill_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "run.jsonl"
    with closing(Journal(path, create=True)) as journal:
        journal.append("tag", "whole")
    with path.open("ab") as file:
        file.write(b'["tag", "cut sh')
    with closing(Journal(path)) as again:
        again.append("end", "KILLED")
        assert _entries(again) == [("tag", "whole"), ("end", "KILLED")]
        assert again.ended


def test_an_open_journal_belongs_to_its_run(tmp_path):
    path = tmp_path / "run.jsonl"
    with closing(Journal(path, create=True)) as journal:
        journal.append("tag", 1)
        with pytest.raises(BlockingIOError, match="still going"):
            Journal(path)
        journal.remove()
    with pytest.raises(FileNotFoundError):
        Journal(path)
    assert list(tmp_path.iterdir()) == []
