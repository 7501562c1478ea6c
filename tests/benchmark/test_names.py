"""Names as MLflow, databases and file systems take them: allowed ones stay, others change and stay apart."""

import re

import pytest
from mlflow.utils.validation import _validate_metric_name

from benchmark.names import FILE_MOST, MLFLOW_MOST, for_file, for_files, for_mlflow, for_store

ODD = [
    "sent (1)", "=cmd|' /C calc'!A0", "<script>alert(1)</script>", r"$\input{x}$", r"a_b%c#d&e~f^g\h{i}", "a\nb", "a\n",
    "\t", "\u202eabc", "\u200b", "\udcff", "\udcfe", "..", ".", "../../etc", "/", "a//b", "a/", "-rf", ".hidden", "🧠",
    "脑 (2)", "x" * 300, "x" * 299 + "y", "", "con", "NUL.txt", "\0",
]  # fmt: skip


@pytest.mark.parametrize("name", ["loss", "ratios.synthetic stylegan3 unet aug on", "a/b:c", "Süd", "sent -1-"])
def test_a_key_that_mlflow_takes_stays(name):
    assert for_mlflow(name) == name


def test_every_other_key_becomes_one_that_it_takes_and_no_two_the_same():
    keys = [for_mlflow(name) for name in ODD]
    for key in keys:
        _validate_metric_name(key)
        assert 0 < len(key) <= MLFLOW_MOST
        assert "\n" not in key
    assert len(set(keys)) == len(ODD)
    assert re.fullmatch(r"sent -1- [0-9a-f]{8}", for_mlflow("sent (1)"))


def test_every_name_becomes_one_that_a_file_can_have_everywhere_and_no_two_the_same():
    files = [for_file(name) for name in ODD]
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]*", file)
        assert not file.endswith((".", " "))
        assert file.lower().partition(".")[0] not in ("con", "nul")
        assert len(file) <= FILE_MOST
    assert len(set(files)) == len(ODD)
    assert [for_file(name) for name in ("phantom", "our hospital", "BraTS-GLI 1.2")] == [
        "phantom",
        "our hospital",
        "BraTS-GLI 1.2",
    ]


def test_files_are_told_apart_where_capitals_do_not_count():
    files = for_files(["Glioma", "glioma", "GLIOMA"])
    assert list(files) == ["Glioma", "glioma", "GLIOMA"]
    assert files["Glioma"] == "Glioma"
    assert len({file.lower() for file in files.values()}) == 3


@pytest.mark.parametrize(
    ("text", "stored"), [("as it is\n", "as it is\n"), ("a\0b", r"a\x00b"), ("\udcff", r"\udcff"), ("é", "é")]
)
def test_a_value_is_text_that_every_database_takes(text, stored):
    assert for_store(text) == stored
    assert for_store("x" * 9000) == "x" * 4999 + "…"
