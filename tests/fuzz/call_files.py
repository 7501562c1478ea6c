"""Files and folders that a call names, spoiled; each mutator says whether the call may pass."""

import os
import shutil
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.fuzz.spoiled import ANY, REFUSED, Call


def split_file_anything(c: Call) -> str:
    rows = c.pick([
        b"", b"subject\n", b"subject,split\n", b"subject,split\ncase-a,train\n", b"\xff\xfe\0s\0u",
        b"subject,split\ncase-a,test,x\n",
        b"subject;split\ncase-a;test\n", b"subject,split\ncase-a,train\ncase-a,test\n", b"subject,split\nnobody,test\n",
        b"a" * 300_000, b"\0" * 5000, b"subject,split\n" + b"case-a,train\n" * 5000, b'subject,split\n"case-a,train\n',
        b"split,subject\ntrain,case-a\ntest,case-b\nvalidation,case-c\nnonsense,case-d\n", c.rng.bytes(3000),
        b"subject,split,split\ncase-a,train,test\n", b"subject,split\n" + b"x" * 140_000 + b",train\n",
        b"\xef\xbb\xbfsubject,split\ncase-a,train\ncase-b,train\ncase-c,validation\n",
        b"subject,split\n,train\n,test\n",
    ])  # fmt: skip
    path = c.folder / c.pick(["split.csv", "split.mat", "split", "split.txt", "split.CSV"])
    path.write_bytes(rows)
    c.keys["split"] = str(path)
    return ANY


def matlab_file_anything(c: Call) -> str:
    path = c.folder / "split.mat"
    content = c.pick([{}, {"a": 1}, {"train": np.array(["case-a"], object)}, {"x": {"y": {"z": np.eye(3)}}},
                      {"split": np.array([["case-a", "test"]], object)}])  # fmt: skip
    savemat(path, content, do_compression=bool(c.rng.integers(2)))
    raw = bytearray(path.read_bytes())
    for _ in range(c.rng.integers(0, 30)):
        raw[c.rng.integers(min(len(raw), 400))] = c.rng.integers(256)
    path.write_bytes(raw[: c.rng.integers(1, len(raw) + 1)] if c.rng.integers(2) else raw)
    c.keys["split"] = str(path)
    return ANY


def cohort_folder_anything(c: Call) -> str:
    data = c.folder / "data"
    match c.rng.integers(9):
        case 0:
            data.mkdir()
        case 1:
            data.write_bytes(b"x")
        case 2:
            data.symlink_to("data")
        case 3:
            os.mkfifo(data)
        case 4:
            data.symlink_to("/dev/zero")
        case 5:  # deep
            (data / "/".join(["d"] * 900)).mkdir(parents=True)
        case 6:  # names that are no UTF-8
            shutil.copytree(c.cohort, data)
            bad = os.fsencode(data) + b"/\xff\xfe"
            os.rename(data / "case-a", bad)
        case 7:
            data = Path(
                c.pick(["", ".", "..", "x" * 5000, "no/such/folder", "\udc80", "/proc/self", "/dev", "/dev/fd"])
            )
        case _:  # loops
            shutil.copytree(c.cohort, data)
            for name in ("up", "down"):
                (data / name).symlink_to(data)
    c.keys["data"] = str(data) if str(data) != "." else c.pick(["", "."])
    return ANY


def whole_disk_as_cohort(c: Call) -> str:
    c.keys["data"] = c.pick(["/", "//", "/.", "/proc", "/sys"])
    return REFUSED


def names_that_are_not_text(c: Call) -> str:
    data = c.folder / c.pick(
        ["sent (1)", "=cmd|x", "<b>", "two\nlines", "\u202ex", "a,b", "$x$", "ü" * 60, "a'b", "x.y", "%d"]
    )
    shutil.copytree(c.cohort, data)
    odd = c.pick(["=1+1", "two\nlines", "<i>", "$x$", "a,b", "\u202ex", "é", 'quote"d', "-x", " "])
    (data / "case-a").rename(data / odd)
    c.keys["data"] = str(data)
    return ANY
