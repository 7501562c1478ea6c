"""A call that would pass, to be spoiled, and what values and names people and machines come up with."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TABLE = ("analyze", "report", "benchmark")
PASSED = "passed"  # nothing is wrong with the call
REFUSED = "refused"
ANY = "any"

NUMBERS = [
    "", "nan", "inf", "-inf", "-1", "0", "1e999", "1" * 400, "9" * 5000, "1e-400", "0x10", "1_000", "１２", "٣", "1.5",
    "+5",
    "1,000", "1/2", "true", "null", "~", "[1]", "{}", "1 2", "--1", "2147483648", "-0", "1e3", " 7 ", "1000000",
    "999999999",
]  # fmt: skip
TEXTS = [
    "", " ", ",", ",,,", "a" * 5000, "two\nlines", "\udc80\udcff", "\u202eoops", "🧠", "%s%s%n", "$HOME", "~",
    "~nobody/x",
    "~no-such-user/x", "[", "{'a': 1}", "'", '"', "\\", "../..", ".", "/dev/zero", "/dev/full", "/dev/stdin",
    "/proc/self/mem",
    "fifo", "folder", "loop", "file.txt", "empty.yaml", "=cmd|' '!A1", "<script>", "x" * 255 + "/" + "y" * 255,
    "a/" * 2000,
    "None", "phantom", "phantom,phantom", "stylegan3", "unet,unet", "diffusion,nonsense", "real,real",
    "http://127.0.0.1:1/",
    "sqlite:///", "postgresql://u:secret@127.0.0.1:1/x", "file:///etc/passwd", "\x1b[2J", "\x7f\x01", "é" * 300,
    "sent (1)",
]  # fmt: skip


@dataclass
class Call:
    """A call that would pass, to be spoiled."""

    folder: Path  # the current folder of the call
    cohort: Path
    rng: np.random.Generator
    stage: str = "prepare"
    keys: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)  # put behind the keys

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def preset(self, content: str | bytes, name: str = "mine.yaml") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.keys["preset"] = str(path)
        return path
