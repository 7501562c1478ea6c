"""Family 3: command lines and presets. What is wrong is refused in one message that says where; nothing hangs.

A call that passes every check runs `prepare` on a tiny cohort; of other stages only what comes before the work is
called (the table's dry run, a stage's fingerprint), where a wrong value has to be refused as well.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import benchmark.table.run
import benchmark.tune
from benchmark import parsing
from benchmark.preset_files import PRESETS
from benchmark.stages import StageResult
from tests.fuzz import cohorts, harness
from tests.fuzz.harness import Case, Ended

TABLE = ("analyze", "report", "benchmark")
PASSED = "passed"  # nothing is wrong with the call
REFUSED = "refused"
ANY = "any"

NUMBERS = [
    "", "nan", "inf", "-inf", "-1", "0", "1e999", "1" * 400, "9" * 5000, "1e-400", "0x10", "1_000", "１２", "٣", "1.5", "+5",
    "1,000", "1/2", "true", "null", "~", "[1]", "{}", "1 2", "--1", "2147483648", "-0", "1e3", " 7 ", "1000000", "999999999",
]  # fmt: skip
TEXTS = [
    "", " ", ",", ",,,", "a" * 5000, "two\nlines", "\udc80\udcff", "\u202eoops", "🧠", "%s%s%n", "$HOME", "~", "~nobody/x",
    "~no-such-user/x", "[", "{'a': 1}", "'", '"', "\\", "../..", ".", "/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem",
    "fifo", "folder", "loop", "file.txt", "empty.yaml", "=cmd|' '!A1", "<script>", "x" * 255 + "/" + "y" * 255, "a/" * 2000,
    "None", "phantom", "phantom,phantom", "stylegan3", "unet,unet", "diffusion,nonsense", "real,real", "http://127.0.0.1:1/",
    "sqlite:///", "postgresql://u:secret@127.0.0.1:1/x", "file:///etc/passwd", "\x1b[2J", "\x7f\x01", "é" * 300, "sent (1)",
]  # fmt: skip


@dataclass(frozen=True)
class Base:
    cohort: Path


def prepare(root: Path) -> Base:
    cohorts.write_cohort(root / "cohort", "brats .nii.gz")
    return Base(root / "cohort")


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


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Call], str]) -> Case:
    keys = {"preset": "smoke", "data": str(base.cohort), "workers": "1", "work_dir": "work"}
    call = Call(folder, base.cohort, rng, keys=keys)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "file.txt").write_text("hello\n")
    (folder / "empty.yaml").touch()
    promise = mutator(call)
    if call.stage in TABLE:
        call.keys["dry_run"] = "true"
    words = [word for key, value in call.keys.items() for word in (f"--{key}={value}",)]
    holds = {PASSED: harness.taken, REFUSED: harness.refused, ANY: harness.anything}[promise]
    return Case([call.stage, *words, *call.words], lambda ended: _holds(ended, holds), _stop_before_work)


def _holds(ended: Ended, holds: Callable[[Ended], str]) -> str:
    if "secret" in ended.output:
        raise harness.WrongValueError("repeats a password")
    return holds(ended)


def _stop_before_work() -> None:
    """Lets a stage but `prepare` end where its work would begin; `tune` where its study would."""
    pull = benchmark.table.run.pull

    def stopped(stage: str, config, *more):
        return pull(stage, config, *more) if stage == "prepare" else StageResult(stage, "", "", Path(), True)

    benchmark.table.run.pull = stopped
    benchmark.tune.tune = lambda config: StageResult("tune", "", "", Path(), True)


# --- command lines ---------------------------------------------------------------------------------------------------


def _spoil(c: Call, values: list[str], sections: Callable[[str, str], bool]) -> str:
    c.stage = c.pick([*parsing.STAGES, "prepare", "prepare", "benchmark"])
    known = [(section, key) for section, key, _ in parsing.reachable(c.stage) if sections(section, key)]
    section, key = known[c.rng.integers(len(known))]
    value = c.pick(values)
    if key in ("work_dir", "out") and value.startswith(("/", "..")):
        value = "elsewhere"  # the campaign writes nowhere else
    c.keys.pop(key, None)
    if key == "work_dir":
        c.words = [f"--work_dir={value}"]
    else:
        c.words = [f"--{key}={value}" if c.rng.integers(2) else f"--{section}.{key}={value}"]
    return ANY


def value_of_any_key(c: Call) -> str:
    return _spoil(c, [*NUMBERS, *TEXTS], lambda section, key: key not in ("dry_run",))


def number_of_any_key(c: Call) -> str:
    return _spoil(c, NUMBERS, lambda section, key: key not in ("dry_run", "data", "split", "synthetic", "work_dir"))


def path_of_any_kind(c: Call) -> str:
    return _spoil(c, TEXTS, lambda section, key: key in ("data", "split", "synthetic", "preset", "work_dir", "out"))


def huge_count(c: Call) -> str:
    key = c.pick(["ensemble", "repeats", "replicates", "samples", "snapshots", "trials", "phantom_subjects", "image_size",
                  "batch_size", "train_generator.snapshots", "train_segmenter.images", "snapshot_samples", "workers"])  # fmt: skip
    c.stage = "benchmark" if key in ("repeats", "replicates") else "tune" if key == "trials" else "audit"
    c.keys.pop("workers", None)
    c.words = [f"--{key}={c.pick(['1000000', '1000000000', '99999999999999999999', '1' * 300])}"]
    if "phantom" in key:
        c.keys["data"] = "phantom"
    return ANY


def lists_of_many(c: Call) -> str:
    c.stage = "benchmark"
    key, values = c.pick([
        ("seed", []), ("model", ["stylegan3", "diffusion", "unet", ""]), ("real_subjects", ["0.5", "0", "1", "2", "nan", "-1"]),
        ("train_on", ["real", "both", "synthetic", "pretrain", "none"]), ("augment", ["true", "false", "maybe", "1", "0"]),
        ("segmenter", ["unet", "swin", "stylegan3"]), ("synthetic_share", ["1.0", "1e-9", "1.0000001", "inf"]),
        ("data", ["phantom", "cohort", "", "."]),
    ])  # fmt: skip
    c.keys.pop("data", None)
    c.words = [f"--{key}={','.join(c.pick([*values, '7']) for _ in range(int(c.rng.integers(1, 400))))}"]
    return ANY


def unknown_key(c: Call) -> str:
    c.stage = c.pick(list(parsing.STAGES))
    key = c.pick(["dta", "imagesize", "prepare.nothing", "nothing.data", ".", "..", "a.b.c", "prepare.", ".data", "data.",
                  "stylegan3.", "stylegan3.nothing", "models", "models.unet", "common.json_", "json_", "model_config",
                  "__class__", "prepare.__doc__", "unet.unet.widths", "x" * 5000, "ключ", "two\nlines", "\udc80", " data",
                  "-data", "-", "Data", "DATA"])  # fmt: skip
    c.words = [f"--{key}={c.pick(['1', '', 'x'])}"]
    return REFUSED if key not in ("stylegan3.nothing",) else ANY


def words_out_of_place(c: Call) -> str:
    c.words = c.pick([["loose"], ["--"], ["-d", "x"], ["--data", "x"], ["---data=x"], ["--image_size"], ["--=5"], [""], ["="],
                      ["--image_size", "16", "17"], ["\n"], ["--data=a", "--data=b"], ["--strict=maybe"], ["🧠"],
                      ["--preset", "smoke", "--preset", "smoke"], ["--image_size=16 --seed=1"], ["\udcff"]])  # fmt: skip
    return REFUSED


def unknown_stage(c: Call) -> str:
    c.stage = c.pick(["", "Prepare", "prepare ", "../prepare", "benchmark.prepare", "x" * 5000, "\udc80", "two\nlines", "1", "run",
                      "all", "__init__", "prepare\0x".replace("\0", ""), "--prepare", "-", "プリペア"])  # fmt: skip
    c.keys = {}
    return REFUSED if c.stage != "prepare" else ANY


def help_with_anything(c: Call) -> str:
    c.stage = c.pick(list(parsing.STAGES))
    c.words = ["--help", c.pick(["--model=x", "--model=stylegan3", "--preset=gpu", "--preset=nothing", "--json=true", "-h"])]
    return ANY


def sound_call(c: Call) -> str:
    c.words = c.pick([[], ["--json"], ["--strict=true"], ["--seed=3"], ["--prepare.seed=3"], ["--image_size", "24"],
                      ["--workers=1", "--layout=brats2020"] if False else ["--layout=brats2020"], ["--test_share=0.3"]])  # fmt: skip
    return PASSED


def model_key_anything(c: Call) -> str:
    c.stage = c.pick(["train_generator", "train_segmenter", "benchmark", "sample"])
    model = c.pick(parsing.model_names())
    key = c.pick(list(parsing.model_fields(model)))
    c.words = [f"--{model}.{key}={c.pick([*NUMBERS, *TEXTS[:12], '1,2,3', '8,-16', '8,,16', '1e9,1e9'])}"]
    if c.stage in ("train_generator", "sample") and model not in ("unet", "swin"):
        c.keys["model"] = model
    return ANY


def split_file_anything(c: Call) -> str:
    rows = c.pick([
        b"", b"subject\n", b"subject,split\n", b"subject,split\ncase-a,train\n", b"\xff\xfe\0s\0u", b"subject,split\ncase-a,test,x\n",
        b"subject;split\ncase-a;test\n", b"subject,split\ncase-a,train\ncase-a,test\n", b"subject,split\nnobody,test\n",
        b"a" * 300_000, b"\0" * 5000, b"subject,split\n" + b"case-a,train\n" * 5000, b'subject,split\n"case-a,train\n',
        b"split,subject\ntrain,case-a\ntest,case-b\nvalidation,case-c\nnonsense,case-d\n", c.rng.bytes(3000),
        b"subject,split,split\ncase-a,train,test\n", b"subject,split\n" + b"x" * 140_000 + b",train\n",
        b"\xef\xbb\xbfsubject,split\ncase-a,train\ncase-b,train\ncase-c,validation\n", b"subject,split\n,train\n,test\n",
    ])  # fmt: skip
    path = c.folder / c.pick(["split.csv", "split.mat", "split", "split.txt", "split.CSV"])
    path.write_bytes(rows)
    c.keys["split"] = str(path)
    return ANY


def matlab_file_anything(c: Call) -> str:
    from scipy.io import savemat

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
            data = Path(c.pick(["", ".", "..", "x" * 5000, "no/such/folder", "\udc80", "/proc/self", "/dev", "/dev/fd"]))
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
    data = c.folder / c.pick(["sent (1)", "=cmd|x", "<b>", "two\nlines", "\u202ex", "a,b", "$x$", "ü" * 60, "a'b", "x.y", "%d"])
    shutil.copytree(c.cohort, data)
    odd = c.pick(["=1+1", "two\nlines", "<i>", "$x$", "a,b", "\u202ex", "é", "quote\"d", "-x", " "])
    (data / "case-a").rename(data / odd)
    c.keys["data"] = str(data)
    return ANY


# --- presets ---------------------------------------------------------------------------------------------------------

SMOKE = (PRESETS / "smoke.yaml").read_bytes()


def preset_bits_flipped(c: Call) -> str:
    content = bytearray(SMOKE)
    for _ in range(c.rng.integers(1, 9)):
        content[c.rng.integers(len(content))] ^= 1 << int(c.rng.integers(8))
    c.preset(bytes(content))
    return ANY


def preset_cut(c: Call) -> str:
    c.preset(SMOKE[: c.rng.integers(len(SMOKE))])
    return ANY


def preset_bytes_put_in(c: Call) -> str:
    content = bytearray(SMOKE)
    place = int(c.rng.integers(len(content)))
    content[place:place] = c.pick([b"\0", b"\t", b"\xff", b"{", b"[", b": ", b"- ", b"&a ", b"*a", b"!!python/object:os.system ", b"? ",
                                   b"---\n", b"...\n", b"\xef\xbb\xbf", b"%YAML 9.9\n", b"'", b'"', b"\r", b"\xc2\x85", b"|\n", b"<<: "])  # fmt: skip
    c.preset(bytes(content))
    return ANY


def preset_of_another_encoding(c: Call) -> str:
    text = "# Größe\nprepare: {image_size: 16}\n"
    c.preset(c.pick([text.encode("latin-1"), text.encode("cp037"), text.encode("utf-16"), text.encode("utf-32"), text.encode("utf-7"),
                     text.encode("utf-16-le"), b"\xef\xbb\xbf" + text.encode(), SMOKE + b"\xff\xfe", b"\0" * 100, c.rng.bytes(2000),
                     b"\x7fELF" + c.rng.bytes(500), SMOKE + b"\xed\xa0\x80: 1"]))  # fmt: skip
    return ANY


def preset_nested_deeply(c: Call) -> str:
    depth = int(c.pick([50, 1000, 20_000]))
    text = c.pick(["[" * depth, "[" * depth + "]" * depth, "{a: " * depth + "1" + "}" * depth, "- " * depth,
                   "".join(f"{' ' * i}a:\n" for i in range(min(depth, 3000))), "prepare: " + "{data: " * depth + "}" * depth,
                   "? " * depth, "!a " * depth, "&a " * depth])  # fmt: skip
    c.preset(text)
    return REFUSED


def preset_of_many_aliases(c: Call) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "\n".join(lines)
    c.preset(c.pick([text, text.replace("a11:", "prepare:"), "prepare: &p {data: *p}", "prepare: &p\n  <<: *p\n", "&a [*a]", "*a",
                     "unet: {widths: &w [*w]}", "unet: &u {a: *u}", "extends: &e [*e]"]))  # fmt: skip
    return REFUSED


def preset_extends_anything(c: Call) -> str:
    value = c.pick(["mine.yaml", "nothing", "[smoke]", "{a: b}", "0", "1", "''", "null", "true", "1.5", "2026-01-01", "../mine.yaml", "/dev/zero",
                    "folder", "fifo", "'smoke.yaml'", "smoke\\n", "'" + "x" * 5000 + "'", "'a/" + "b/" * 2500 + "'", "[[[]]]", "!!binary aGk=",
                    "\"\\0\"", "\"\\ud800\"", "~", "'loop.yaml'", "/dev/stdin", "'../../../etc/passwd'"])  # fmt: skip
    c.preset(f"extends: {value}\nprepare: {{image_size: 16}}\n")
    return ANY


def preset_extends_in_a_circle(c: Call) -> str:
    length = int(c.pick([1, 2, 3, 50]))
    for number in range(length):
        c.preset(f"extends: {c.folder / f'ring{(number + 1) % length}.yaml'}\n", f"ring{number}.yaml")
    return REFUSED


def preset_extends_a_thousand_deep(c: Call) -> str:
    depth = int(c.pick([300, 1000, 3000]))
    for number in range(depth):
        c.preset(f"extends: {c.folder / f'step{number + 1}.yaml'}\n", f"step{number}.yaml")
    (c.folder / f"step{depth}.yaml").write_text("extends: smoke\n")
    c.keys["preset"] = str(c.folder / "step0.yaml")
    return ANY


def preset_keys_of_other_kinds(c: Call) -> str:
    text = c.pick(["1: {a: b}", "null: {a: b}", "true: {a: b}", "1.5: {}", "[a, b]: {}", "? {a: b}\n: {}", "2026-01-01: {}", "~: ~", "'': {}",
                   "prepare: {1: 2}", "prepare: {null: 2}", "prepare: {[1]: 2}", "prepare: {true: false}", "prepare: {1.5: x, b: 2}",
                   "prepare: {'': 1}", "prepare: {2026-01-01: 1}", "stylegan3: {1: 2}", "stylegan3: {null: 1, a: 2}", "unet: {[a]: 1}",
                   "unet: {1: 1, widths: [8]}", "models: {unet: {widths: [8]}}", "models: 3", "prepare: {a: 1, 2: 3, null: 4}",
                   "!!binary aGk=: {}", "prepare: {!!binary aGk=: 1}", "<<: {a: b}", "<<: 1", "prepare: {<<: [1]}", "=: 1"])  # fmt: skip
    c.preset(text)
    return REFUSED


def preset_sections_of_other_kinds(c: Call) -> str:
    text = c.pick(["prepare", "[]", "12", "null", "- prepare", "prepare:", "prepare: []", "prepare: 3", "prepare: text", "unet: [8]", "unet: 3",
                   "prepare: !!set {a}", "prepare: !!omap [a: 1]", "!!python/object/apply:os.system ['touch hacked']", "!!python/name:os.system",
                   "prepare: !!python/tuple [1]", "prepare: {data: !!python/object/new:os.system [x]}", "--- 1\n--- 2", "prepare: {a: 1}\nprepare: 2",
                   "!!str", "!unknown {a: b}", "a: b: c", "\t", "prepare: {image_size: 16,}", "'unclosed", "@", "`", "%", "&", "*", "!"])  # fmt: skip
    c.preset(text)
    return ANY


def preset_value_of_any_key(c: Call) -> str:
    sections = [*parsing.SECTIONS, *parsing.model_names()]
    section = c.pick(sections)
    fields = parsing.model_fields(section) if section in parsing.model_names() else parsing.Config.model_fields[section].annotation.model_fields
    if not fields:
        return sound_call(c)
    key = c.pick(list(fields))
    value = c.pick(["null", "[]", "{}", "[[1]]", "{a: b}", "text", "-1", "1e400", ".nan", ".inf", "-.inf", "9" * 400, "true", "2026-01-01",
                    "[1, text]", "''", "!!binary aGk=", "!!set {a}", "0o17", "0b1", "1:30", "12:30:45", "[null]", "[[]]", "\"\\0\"", "\"\\ud800\"",
                    "[" + "1," * 2000 + "]", "{1: 2}", "'1'", "1.0", "'" + "x" * 3000 + "'", "&a [*a]"])  # fmt: skip
    if key in ("work_dir", "out", "data"):
        key = "image_size"
    c.preset(f"extends: smoke\n{section}: {{{key}: {value}}}\n")
    c.stage = c.pick(["prepare", "benchmark", "sample", "evaluate"])
    return ANY


def preset_is_no_file(c: Call) -> str:
    path = c.folder / "mine.yaml"
    match c.rng.integers(8):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(c.pick(["/dev/zero", "/dev/urandom", "/dev/null", "/dev/full"]))
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("gone.yaml")
        case 5:
            path = Path(c.pick(["", " ", ".yaml", "x" * 300 + ".yaml", "no/such.yaml", "../smoke", "smoke.yml", "SMOKE", "\udc80.yaml", "a\nb", "/"]))
        case 6:
            path = c.preset(b"# x\n" * 3_000_000)
        case _:
            path = c.preset(b"prepare: {image_size: 16}\n" * 20_000)
    c.keys["preset"] = str(path) if str(path) != "." else ""
    return ANY


def preset_sound(c: Call) -> str:
    c.preset(c.pick(["extends: smoke\n", "prepare: {image_size: 24}\n", "\n\n# nothing\n", "extends: smoke\nstylegan3: {channel_base: 64}\n",
                     "extends: smoke\nprepare:\n  image_size: 16\n  seed: 5\n"]))  # fmt: skip
    return PASSED


MUTATORS: tuple[Callable[[Call], str], ...] = (
    value_of_any_key, number_of_any_key, path_of_any_kind, huge_count, lists_of_many, unknown_key, words_out_of_place,
    unknown_stage, help_with_anything, sound_call, model_key_anything, split_file_anything, matlab_file_anything,
    cohort_folder_anything, whole_disk_as_cohort, names_that_are_not_text, preset_bits_flipped, preset_cut,
    preset_bytes_put_in, preset_of_another_encoding, preset_nested_deeply, preset_of_many_aliases, preset_extends_anything,
    preset_extends_in_a_circle, preset_extends_a_thousand_deep, preset_keys_of_other_kinds, preset_sections_of_other_kinds,
    preset_value_of_any_key, preset_is_no_file, preset_sound, value_of_any_key, number_of_any_key, path_of_any_kind,
    model_key_anything, preset_value_of_any_key,
)  # fmt: skip
