import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.errors import UserError

META = {"kind": "synthetic", "cohort": "<b>Köln</b>, 2", "simulated": True, "spacing": {}}
FILES = ("images.npy", "labels.npy", "index.parquet", "meta.json")


def make_batches(count: int = 4, size: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (n, 4, size, size), np.uint8), rng.integers(0, 4, (n, size, size), np.uint8))
        for n in range(1, count + 1)
    ]


def append(writer: SliceWriter, number: int, batch: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = batch
    seeds = range(100 * number, 100 * number + len(images))
    writer.append(images, labels, subject=f"ÄÖ\n{number}", z=0, split="synthetic", seed=seeds)


def write(folder: Path, batches: list, resume: bool = False) -> None:
    """What a resumable stage does: goes on after the rows that stand."""
    with SliceWriter(folder, 8, META, resume=resume) as writer:
        for number, batch in enumerate(batches):
            if writer.count <= sum(len(images) for images, _ in batches[:number]):
                append(writer, number, batch)


def break_off(folder: Path, batches: list, resume: bool = True) -> None:
    """Appends the batches; then an exception leaves the writer's block."""
    with contextlib.suppress(KeyboardInterrupt), SliceWriter(folder, 8, META, resume=resume) as writer:
        for number, batch in enumerate(batches):
            append(writer, number, batch)
        raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- writing and opening ---


def test_a_written_set_opens_with_what_was_appended(tmp_path):
    batches = make_batches()
    write(tmp_path, batches)
    opened = SliceSet.open(tmp_path)
    np.testing.assert_array_equal(opened.images, np.concatenate([images for images, _ in batches]))
    np.testing.assert_array_equal(opened.labels, np.concatenate([labels for _, labels in batches]))
    assert isinstance(opened.images, np.memmap)
    assert opened.meta == {**META, "image_size": 8}
    assert opened.index["subject"].tolist() == [f"ÄÖ\n{n}" for n in range(4) for _ in range(n + 1)]
    assert opened.index["seed"].tolist() == [0, 100, 101, 200, 201, 202, 300, 301, 302, 303]
    assert opened.index["tumour_pixels"].tolist() == [int((label > 0).sum()) for label in opened.labels]
    assert opened.rows("synthetic").tolist() == list(range(10))
    assert opened.rows("train").tolist() == []
    assert sorted(contents(tmp_path)) == sorted(FILES)
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        opened.rows("tset")


def test_splits_may_be_assigned_after_appending(tmp_path):
    images, labels = make_batches(1)[0]
    with SliceWriter(tmp_path, 8, META) as writer:
        for subject in "abc":
            writer.append(images, labels, subject=subject, z=3, split="train")
        writer.assign_splits({"a": "test", "b": "train", "c": "validation"})
    assert SliceSet.open(tmp_path).index["split"].tolist() == ["test", "train", "validation"]


def test_bad_batches_are_refused(tmp_path):
    images, labels = make_batches(1)[0]
    with pytest.raises(ValueError, match="float64"), SliceWriter(tmp_path, 8, META) as writer:
        writer.append(images.astype(float), labels, subject="a", z=0, split="train")
    with pytest.raises(ValueError, match="expected uint8"), SliceWriter(tmp_path, 8, META) as writer:
        writer.append(images, labels[:, :4], subject="a", z=0, split="train")
    with pytest.raises(ValueError, match="label 4"), SliceWriter(tmp_path, 8, META) as writer:
        writer.append(images, labels * 0 + 4, subject="a", z=0, split="train")
    with pytest.raises(ValueError, match="cannot be empty"), SliceWriter(tmp_path, 8, META):
        pass
    with pytest.raises(ValueError, match="without a known split"), SliceWriter(tmp_path, 8, META) as writer:
        writer.append(images, labels, subject="a", z=0, split="tset")
    with pytest.raises(UserError):
        SliceSet.open(tmp_path)


def test_a_failed_writer_leaves_nothing_and_a_new_one_replaces_what_stood(tmp_path):
    batches = make_batches()
    write(tmp_path, batches)
    break_off(tmp_path, batches, resume=False)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path, batches[:2])
    assert len(SliceSet.open(tmp_path)) == 3


def test_memory_does_not_grow_with_the_set(tmp_path):
    images, labels = np.zeros((8, 4, 64, 64), np.uint8), np.zeros((8, 64, 64), np.uint8)
    tracemalloc.start()
    with SliceWriter(tmp_path, 64, META) as writer:
        for _ in range(100):
            writer.append(images, labels, subject="a", z=range(8), split="train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "images.npy").stat().st_size / 10


def break_set(folder: Path, how: str) -> None:
    images = np.load(folder / "images.npy")
    index = pd.read_parquet(folder / "index.parquet")
    match how:
        case "missing":
            (folder / "labels.npy").unlink()
        case "truncated":
            os.truncate(folder / "images.npy", 500)
        case "dtype":
            np.save(folder / "images.npy", images.astype(np.float32))
        case "channels":
            np.save(folder / "images.npy", images[:, :3])
        case "shapes":
            np.save(folder / "images.npy", images[:, :, :4])
        case "index":
            index[1:].to_parquet(folder / "index.parquet")
        case "column":
            index.drop(columns="seed").to_parquet(folder / "index.parquet")
        case "split":
            index.assign(split="dev").to_parquet(folder / "index.parquet")
        case "label":
            np.save(folder / "labels.npy", np.load(folder / "labels.npy") + 1)
        case "pickle":
            (folder / "images.npy").write_bytes(pickle.dumps(images))
        case "object":
            np.save(folder / "images.npy", np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"labels\.npy is missing.*Give a folder"),
        ("truncated", r"images\.npy is damaged"),
        ("dtype", r"images\.npy: float32"),
        ("channels", r"images\.npy: 3 channels, expected T1, T1ce, T2, FLAIR"),
        ("shapes", r"do not fit"),
        ("index", r"9 rows for 10 slices"),
        ("column", r"column\(s\) seed missing"),
        ("split", r"unknown split \['dev'\]"),
        ("label", r"labels\.npy: label 4"),
        ("pickle", r"images\.npy is damaged"),
        ("object", r"images\.npy is damaged"),
    ],
)
def test_opening_names_what_is_wrong(tmp_path, how, message):
    write(tmp_path, make_batches())
    break_set(tmp_path, how)
    with pytest.raises(UserError, match=message):
        SliceSet.open(tmp_path)


# --- kill and resume ---


def write_until_killed(folder: Path, deadline: int, resume: bool) -> None:
    """Sends itself SIGKILL at the deadline-th time that bytes or names reach the disk."""
    calls = 0

    def mortal(function):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    SliceWriter._sync = mortal(SliceWriter._sync)
    Path.replace = mortal(Path.replace)
    Path.unlink = mortal(Path.unlink)
    write(folder, make_batches(2), resume)


@pytest.mark.parametrize("resume", [False, True])
def test_a_writer_killed_anywhere_never_looks_complete_and_can_be_run_again(tmp_path, resume):
    whole = tmp_path / "whole"
    write(whole, make_batches(2), resume)
    kills = 0
    for deadline in range(1, 200):
        folder = tmp_path / str(deadline)
        process = multiprocessing.get_context("fork").Process(
            target=write_until_killed, args=(folder, deadline, resume)
        )
        process.start()
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        if (folder / "meta.json").exists():  # killed after the last name appeared: complete
            assert len(SliceSet.open(folder)) == 3
            continue
        with pytest.raises(UserError, match="no complete slice set"):
            SliceSet.open(folder)
        write(folder, make_batches(2), resume)
        assert contents(folder) == contents(whole), deadline
    assert kills > 10


def test_a_torn_tail_is_cut_off_on_resume(tmp_path):
    batches = make_batches()
    write(tmp_path / "whole", batches)
    folder = tmp_path / "torn"
    break_off(folder, batches[:2])
    for name in ("images.npy", "labels.npy", "index.jsonl"):
        with (folder / f"{name}.partial").open("ab") as file:
            file.write(b'{"subject": ["to')
    writer = SliceWriter(folder, 8, META, resume=True)
    assert writer.count == 3
    append(writer, 2, batches[2])
    append(writer, 3, batches[3])
    writer.close()
    assert contents(folder) == contents(tmp_path / "whole")


def test_rows_without_their_pixels_do_not_count(tmp_path):
    break_off(tmp_path, make_batches())
    path = tmp_path / "labels.npy.partial"
    os.truncate(path, path.stat().st_size - 1)
    assert SliceWriter(tmp_path, 8, META, resume=True).count == 6


def test_resume_refuses_other_settings_and_a_complete_set(tmp_path):
    break_off(tmp_path, make_batches(1))
    with pytest.raises(UserError, match="other settings"):
        SliceWriter(tmp_path, 8, {**META, "cohort": "else"}, resume=True)
    write(tmp_path, make_batches(), resume=True)
    assert json.loads((tmp_path / "meta.json").read_text())["cohort"] == META["cohort"]
    with pytest.raises(ValueError, match="complete"):
        SliceWriter(tmp_path, 8, META, resume=True)
