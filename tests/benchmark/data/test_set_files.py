"""Each file of a SliceSet damaged in the ways that files are: opening it ends in one sentence that names the file."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set of three slices."""
    folder = tmp_path_factory.mktemp("whole")
    with SliceWriter(folder, 8, {"kind": "synthetic", "cohort": "sent", "simulated": True, "spacing": {}}) as writer:
        images = np.full((3, 4, 8, 8), 100, np.uint8)
        writer.append(images, images[:, 0] // 50, subject="a", z=0, split="synthetic")
    return folder


def refusal(folder) -> str:
    with pytest.raises(UserError) as error:
        SliceSet.open(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800
    return str(error.value)


META = {"kind": "synthetic", "cohort": "sent", "image_size": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"\x00\xff\xfe binary \x80", "is damaged"),
        ("{}".encode("utf-16"), "is damaged"),
        (b"[" * 200_000, "is damaged"),
        (b'{"a":' * 200_000, "is damaged"),
        (b"[1, 2]", "it holds a list, not an object"),
        (b"null", "it holds a NoneType"),
        *[(json.dumps({k: v for k, v in META.items() if k != key}), f"the key {key} is missing") for key in META],
        (json.dumps({**META, "image_size": "8"}), "image_size is 8, which is no int"),
        (json.dumps({**META, "image_size": True}), "image_size is True, which is no int"),
        (json.dumps({**META, "image_size": 16}), "8 × 8 px, but image_size in meta.json is 16"),
        (json.dumps({**META, "cohort": None}), "cohort is None, which is no str"),
    ],
)
def test_a_damaged_meta_json_is_one_sentence(whole, tmp_path, content, message):
    folder = shutil.copytree(whole, tmp_path / "set")
    (folder / "meta.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refusal(folder)
    assert message in text
    assert "meta.json" in text


@pytest.mark.parametrize("content", [b"", b"garbage", b"PAR1" + 200 * b"\xff" + b"PAR1", "cut"])
def test_a_damaged_index_is_one_sentence(whole, tmp_path, content):
    folder = shutil.copytree(whole, tmp_path / "set")
    path = folder / "index.parquet"
    path.write_bytes(path.read_bytes()[:-20] if content == "cut" else content)
    assert "index.parquet is damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index[:0], "index.parquet has 0 rows for 3 slices"),
        (lambda index: index.assign(subject=[None, "a", "b"]), "subject holds values that are no text"),
        (lambda index: index.assign(split=[["train"], ["train"], ["train"]]), "split holds values that are no text"),
        (lambda index: index.assign(z=[0.5, 1, 2]), "the column z is float64, not whole numbers"),
        (lambda index: index.assign(seed="1"), "the column seed is"),
    ],
)
def test_an_index_of_other_things_is_one_sentence(whole, tmp_path, change, message):
    folder = shutil.copytree(whole, tmp_path / "set")
    change(pd.read_parquet(folder / "index.parquet")).to_parquet(folder / "index.parquet")
    text = refusal(folder)
    assert message in text
    assert "index.parquet" in text


def header(shape: str, descr: str = "'|u1'", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"\x93NUMPY", "is damaged"),
        (b"PK\x03\x04", "is damaged"),
        (header("(3, 4, 8, 8)") + bytes(767), "is damaged"),  # one byte too few
        (header("(1000000000, 4, 8, 8)") + bytes(768), "is damaged"),
        (header(f"({10**30}, 4, 8, 8)") + bytes(768), "is damaged"),
        (header("(-3, 4, 8, 8)") + bytes(768), "is damaged"),
        (header("(3, 4, 8, 8") + bytes(768), "is damaged"),
        (header("(3, 4, 8, 8)", "'|O'") + bytes(8 * 768), "is damaged"),
        (header("(3, 4, 8, 8)", "'<f4'") + bytes(4 * 768), "float32 (3, 4, 8, 8), expected uint8"),
        (header("(3, 4, 8, 8)", order="True") + bytes(768), "is in Fortran order"),
        (header("(3, 256)") + bytes(768), "expected uint8 with 4 dimensions"),
        (header("(0, 4, 8, 8)"), "do not fit together"),
    ],
)
def test_a_damaged_array_is_one_sentence(whole, tmp_path, content, message):
    folder = shutil.copytree(whole, tmp_path / "set")
    (folder / "images.npy").write_bytes(content)
    text = refusal(folder)
    assert message in text
    assert "images.npy" in text


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.parquet", "meta.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "loop"])
def test_what_is_no_file_is_never_opened(whole, tmp_path, name, kind):
    folder = shutil.copytree(whole, tmp_path / "set")
    path = folder / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)  # whoever opens it waits for ever
        case "broken link":
            path.symlink_to(tmp_path / "nowhere")
        case "loop":
            path.symlink_to(path)
    assert f"{name} is missing" in refusal(folder)


def test_a_set_without_slices_is_one_sentence(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "set")
    (folder / "images.npy").write_bytes(header("(0, 4, 8, 8)"))
    (folder / "labels.npy").write_bytes(header("(0, 8, 8)"))
    pd.read_parquet(folder / "index.parquet")[:0].to_parquet(folder / "index.parquet")
    assert "holds no slice" in refusal(folder)
