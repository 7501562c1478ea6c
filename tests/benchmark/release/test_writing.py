"""Files of a package: in order, resumed, checked by other programs, zipped to the same bytes."""

import hashlib
import shutil
import subprocess
import zipfile

import pytest

from benchmark.errors import UserError
from benchmark.release.writing import PackageFiles, write_zip

BATCHES = [[f"T1/{i:06d}.png" for i in range(start, start + 4)] for start in range(0, 20, 4)]


class KilledError(BaseException):
    """A kill, as far as a process can tell of one."""


def written(folder, asked=None, kill_at=None):
    """Twenty files in five batches, then one; `asked` is told of every batch whose content was needed."""
    with PackageFiles(folder) as files:
        for number, names in enumerate(BATCHES):

            def contents(number=number, names=names):
                if asked is not None:
                    asked.append(number)
                for i, name in enumerate(names):
                    if (number, i) == kill_at:
                        raise KilledError
                    yield name.encode() * (i + 1)

            files.add_batch(names, contents)
        files.add("README.md", lambda: [b"read ", b"me"])
    return files


def test_checksums_are_what_sha256sum_says(tmp_path):
    files = written(tmp_path / "package")
    assert files.digests == {"README.md": hashlib.sha256(b"read me").hexdigest()}  # not of slices, which are many
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "-c", "checksums.sha256"], cwd=tmp_path / "package", capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b": OK") == 21


@pytest.mark.parametrize("kill_at", [(0, 0), (2, 3), (4, 1)])
def test_a_killed_writer_goes_on_and_asks_for_nothing_twice(tmp_path, kill_at):
    written(tmp_path / "whole" / "package")
    with pytest.raises(KilledError):
        written(tmp_path / "package", kill_at=kill_at)
    assert not (tmp_path / "package" / "checksums.sha256").exists()
    with (tmp_path / "package" / "checksums.sha256.partial").open("ab") as journal:
        journal.write(b"0" * 64 + b"  T1/0000")  # a line that was cut off
    asked = []
    written(tmp_path / "package", asked)
    assert asked == [*range(kill_at[0], 5)]
    for place in (tmp_path, tmp_path / "whole"):
        write_zip(place / "package", place / "package.zip", lambda count: None)
    assert (tmp_path / "package.zip").read_bytes() == (tmp_path / "whole" / "package.zip").read_bytes()


def test_what_is_complete_is_not_written_again(tmp_path):
    written(tmp_path / "package")
    asked = []
    files = written(tmp_path / "package", asked)
    assert asked == []
    assert files.digests.keys() == {"README.md"}


def test_files_that_come_in_another_order_are_written_anew(tmp_path):
    with PackageFiles(tmp_path / "package") as files:
        for name in ("a", "b", "c"):
            files.add(name, lambda name=name: [name.encode()])
    with PackageFiles(tmp_path / "package") as files:
        files.add("a", pytest.fail)
        files.add("c", lambda: [b"new"])
    lines = (tmp_path / "package" / "checksums.sha256").read_text().splitlines()
    assert [line[66:] for line in lines] == ["a", "c"]
    assert lines[1][:64] == hashlib.sha256(b"new").hexdigest()


def test_a_zip_unpacks_elsewhere_to_the_same_files(tmp_path):
    written(tmp_path / "package")
    counted = []
    write_zip(tmp_path / "package", tmp_path / "package.zip", counted.append)
    assert sum(counted) == 21
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "package/T1/000000.png"
        assert archive.read("package/README.md") == b"read me"
        assert archive.namelist()[-1] == "package/checksums.sha256"
    if shutil.which("unzip"):
        assert subprocess.run(["unzip", "-tq", tmp_path / "package.zip"], capture_output=True).returncode == 0


def test_a_file_that_a_crash_cut_off_is_found_before_it_leaves(tmp_path):
    written(tmp_path / "package")
    (tmp_path / "package" / "T1" / "000007.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"T1/000007\.png is not what was written: delete"):
        write_zip(tmp_path / "package", tmp_path / "package.zip", lambda count: None)
    assert not (tmp_path / "package.zip").exists()
