"""SliceSets damaged, file by file; each mutator says whether the set may be taken."""

import json

import numpy as np
import pandas as pd

from tests.fuzz import array_files, sent_folders
from tests.fuzz.sent import REFUSED, Sent
from tests.fuzz.subjects import ANY


def meta_is_no_dictionary(s: Sent) -> str:
    texts = [b"", b"[]", b"null", b"12", b'"text"', b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\0\1", b"NaN",
             b"{}garbage", s.rng.bytes(500), b"\0" * 500, "{}".encode("utf-16"), b"[1, 2, 3]", b"true",
             b"1" * 10_000, b"-", b'{"a": 1e99999', b"\xef\xbb\xbf["]  # fmt: skip
    (s.folder / "meta.json").write_bytes(s.pick(texts))
    return REFUSED


def meta_says_something_else(s: Sent) -> str:
    meta = json.loads((s.folder / "meta.json").read_text())
    key = s.pick(list(meta))
    if s.rng.integers(3):
        meta[key] = s.pick([None, [], {}, "text", -1, 1e300, True, [[[]]], {"a": None}, 10**40, "", "sent (1)\n"])
    else:
        del meta[key]
    (s.folder / "meta.json").write_text(json.dumps(meta))
    return ANY


def index_is_no_table(s: Sent) -> str:
    path = s.folder / "index.parquet"
    content = path.read_bytes()
    cut = content[: s.rng.integers(0, len(content))]
    path.write_bytes(s.pick([b"", b"PAR1", b"PAR1PAR1", s.rng.bytes(800), b"subject,z\na,1\n", cut, cut, cut,
                             b"PAR1" + s.rng.bytes(100) + b"\xff\xff\xff\x7fPAR1",
                             content[:4] + content[40:]]))  # fmt: skip
    return REFUSED


def index_bits_flipped(s: Sent) -> str:
    content = bytearray((s.folder / "index.parquet").read_bytes())
    for _ in range(s.rng.integers(1, 6)):
        content[s.rng.integers(len(content))] ^= 1 << int(s.rng.integers(8))
    (s.folder / "index.parquet").write_bytes(content)
    return ANY


def index_does_not_fit(s: Sent) -> str:
    path = s.folder / "index.parquet"
    index = pd.read_parquet(path)
    match s.rng.integers(5):
        case 0:
            index = index.iloc[: int(s.rng.integers(0, len(index)))]
        case 1:
            index = index.drop(columns=[s.pick(["subject", "seed", "z", "split", "tumour_pixels"])])
        case 2:
            index["split"] = s.pick([None, "", "training", 3, "train "])
        case 3:
            index = pd.concat([index, index])
        case _:
            index.columns = [f"{name}_" if name in ("subject", "split") else name for name in index.columns]
    index.to_parquet(path)
    return REFUSED


def index_with_odd_columns(s: Sent) -> str:
    path = s.folder / "index.parquet"
    index = pd.read_parquet(path)
    column = s.pick(["subject", "seed", "z", "tumour_pixels"])
    index[column] = s.pick([None, "text", -1, 1.5, np.nan, True, pd.Timestamp(0), b"\xff\xfe", "two\nlines"])
    index.to_parquet(path)
    return ANY


def slices_file_cut_or_swapped(s: Sent) -> str:
    images, labels = s.folder / "images.npy", s.folder / "labels.npy"
    match s.rng.integers(4):
        case 0:
            content = images.read_bytes()
            images.write_bytes(content[: s.rng.integers(0, len(content))])
        case 1:
            content = labels.read_bytes()
            labels.write_bytes(content[: s.rng.integers(0, len(content))])
        case 2:
            images.write_bytes(labels.read_bytes())
        case _:
            labels.write_bytes(images.read_bytes())
    return REFUSED


def slices_header_says_anything(s: Sent) -> str:
    array_files.npy_header_says_anything(s)
    return REFUSED


def slices_header_is_code(s: Sent) -> str:
    array_files.npy_header_is_code(s)
    return REFUSED


def slices_of_objects(s: Sent) -> str:
    np.save(s.folder / s.pick(["images.npy", "labels.npy"]), np.array([{}, None], object), allow_pickle=True)
    return REFUSED


def slices_with_a_label_too_high(s: Sent) -> str:
    labels = np.load(s.folder / "labels.npy")
    labels[s.rng.integers(len(labels))] = s.pick([4, 51, 255])
    np.save(s.folder / "labels.npy", labels)
    return REFUSED


def slices_without_rows(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        np.save(s.folder / name, np.load(s.folder / name)[:0])
    index = pd.read_parquet(s.folder / "index.parquet").iloc[:0]
    index.to_parquet(s.folder / "index.parquet")
    return REFUSED


def slices_of_another_size(s: Sent) -> str:
    for name in ("images.npy", "labels.npy"):
        np.save(s.folder / name, np.ascontiguousarray(np.load(s.folder / name)[..., :8, :8]))
    return REFUSED


def slices_file_replaced(s: Sent) -> str:
    s.replace_by_no_file(s.folder / s.pick(["meta.json", "index.parquet", "images.npy", "labels.npy"]))
    return REFUSED


def slices_folder_called_oddly(s: Sent) -> str:
    return sent_folders.folder_called_oddly(s)
