"""The files of a package, their checksums, and one zip of them: in a stream, resumable, the same bytes each time.

Memory does not grow with the number of files, but for the zip's list of them, some 400 bytes each.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmark.data.foreign.package import CHECKSUMS
from benchmark.errors import UserError

Chunks = Iterable[bytes]
CHUNK = 1 << 24  # bytes in memory at once
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell
PACKED = (".png", ".gz", ".pdf", ".safetensors")  # nothing is gained by packing these once more


class PackageFiles:
    """Files of a package, added in an order that is always the same.

    with PackageFiles(folder) as files:
        files.add("README.md", lambda: [content])

    What was added stands in a journal, with its checksum, once it is written. After a kill, the same calls pass over
    what the journal holds, without asking for its content, and go on behind it. Leaving the block makes the journal
    `checksums.sha256`; leaving it by an exception lets it lie for the next call.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}  # of the few files at the package's top, not of slices, which are many
        folder.mkdir(parents=True, exist_ok=True)
        final, self._partial = folder / CHECKSUMS, folder / f"{CHECKSUMS}.partial"
        if final.exists():  # complete, but its run was killed before it could say so
            final.replace(self._partial)
        self._partial.touch()
        self._journal = self._partial.open("r+b")

    def add(self, name: str, content: Callable[[], Chunks]) -> None:
        """One file, in pieces; content is called where it has to be written."""
        if not self._standing([name]):
            self._append([(name, self._write(name, content()))])

    def add_batch(self, names: list[str], contents: Callable[[], Iterator[bytes]]) -> None:
        """Several files, of which all are written where one has to be; contents gives each one's content."""
        if not self._standing(names):
            self._append(
                [(name, self._write(name, [content])) for name, content in zip(names, contents(), strict=True)]
            )

    def __enter__(self) -> "PackageFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self._journal.close()
        if kind is None:
            self._partial.replace(self.folder / CHECKSUMS)

    def _standing(self, names: list[str]) -> bool:
        """Whether the journal goes on with these files; where it does not, it ends here."""
        position = self._journal.tell()
        found = []
        for name in names:
            line = self._journal.readline()
            if not (line.endswith(b"\n") and line[66:-1] == name.encode()):
                self._journal.seek(position)
                self._journal.truncate()
                return False
            found.append((name, line[:64].decode()))
        self._remember(found)
        return True

    def _append(self, written: list[tuple[str, str]]) -> None:
        self._journal.write("".join(f"{digest}  {name}\n" for name, digest in written).encode())
        self._journal.flush()
        self._remember(written)

    def _remember(self, written: list[tuple[str, str]]) -> None:
        self.digests.update((name, digest) for name, digest in written if "/" not in name)

    def _write(self, name: str, chunks: Chunks) -> str:
        path, digest = self.folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
        return digest.hexdigest()


def write_zip(folder: Path, path: Path, progress: Callable[[int], None]) -> None:
    """The finished package in `folder` as one zip file: its files in the order of their checksums, without any time.

    Every file is compared with its checksum once more: what a crash of the machine cut off is found. Raises UserError.
    """
    partial = path.with_name(f"{path.name}.partial")
    with zipfile.ZipFile(partial, "w") as archive:
        with (folder / CHECKSUMS).open(encoding="utf-8") as lines:
            for line in lines:
                digest, name = line[:64], line[66:-1]
                if _put(archive, folder, name) != digest:
                    raise UserError(f"{folder / name} is not what was written: delete {folder}, and call again")
                progress(1)
        _put(archive, folder, CHECKSUMS)
    partial.replace(path)


def _put(archive: zipfile.ZipFile, folder: Path, name: str) -> str:
    """Puts one file into the archive; returns its sha256."""
    entry = zipfile.ZipInfo(f"{folder.name}/{name}", EPOCH)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # a file that everybody may read, as on Unix
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(PACKED) else zipfile.ZIP_DEFLATED
    entry.file_size = (folder / name).stat().st_size  # so that one of more than 4 GiB has room to say so
    digest = hashlib.sha256()
    with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
        while chunk := source.read(CHUNK):
            target.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()
