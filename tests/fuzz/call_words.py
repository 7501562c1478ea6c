"""Keys and values on the command line, spoiled; each mutator says whether the call may pass."""

from collections.abc import Callable

from benchmark import parsing
from tests.fuzz.spoiled import ANY, NUMBERS, PASSED, REFUSED, TEXTS, Call


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
    key = c.pick(["ensemble", "repeats", "replicates", "samples", "snapshots", "trials", "phantom_subjects",
                  "image_size",
                  "batch_size", "train_generator.snapshots", "train_segmenter.images", "snapshot_samples",
                  "workers"])  # fmt: skip
    c.stage = "benchmark" if key in ("repeats", "replicates") else "tune" if key == "trials" else "audit"
    c.keys.pop("workers", None)
    c.words = [f"--{key}={c.pick(['1000000', '1000000000', '99999999999999999999', '1' * 300])}"]
    if "phantom" in key:
        c.keys["data"] = "phantom"
    return ANY


def lists_of_many(c: Call) -> str:
    c.stage = "benchmark"
    key, values = c.pick([
        ("seed", []), ("model", ["stylegan3", "diffusion", "unet", ""]), ("real_subjects", ["0.5", "0", "1", "2",
            "nan", "-1"]),
        ("train_on", ["real", "both", "synthetic", "synthetic_last", "pretrain", "none"]),
        ("augment", ["true", "false", "maybe", "1", "0"]),
        ("segmenter", ["unet", "swin", "stylegan3"]), ("synthetic_share", ["1.0", "1e-9", "1.0000001", "inf"]),
        ("data", ["phantom", "cohort", "", "."]),
    ])  # fmt: skip
    c.keys.pop("data", None)
    c.words = [f"--{key}={','.join(c.pick([*values, '7']) for _ in range(int(c.rng.integers(1, 400))))}"]
    return ANY


def unknown_key(c: Call) -> str:
    c.stage = c.pick(list(parsing.STAGES))
    key = c.pick(["dta", "imagesize", "prepare.nothing", "nothing.data", ".", "..", "a.b.c", "prepare.", ".data",
                  "data.",
                  "stylegan3.", "stylegan3.nothing", "models", "models.unet", "common.json_", "json_", "model_config",
                  "__class__", "prepare.__doc__", "unet.unet.widths", "x" * 5000, "ключ", "two\nlines", "\udc80",
                  " data",
                  "-data", "-", "Data", "DATA"])  # fmt: skip
    c.words = [f"--{key}={c.pick(['1', '', 'x'])}"]
    return REFUSED if key not in ("stylegan3.nothing",) else ANY


def words_out_of_place(c: Call) -> str:
    c.words = c.pick([["loose"], ["--"], ["-d", "x"], ["--data", "x"], ["---data=x"], ["--image_size"], ["--=5"], [""],
                      ["="],
                      ["--image_size", "16", "17"], ["\n"], ["--data=a", "--data=b"], ["--strict=maybe"], ["🧠"],
                      ["--preset", "smoke", "--preset", "smoke"], ["--image_size=16 --seed=1"],
                      ["\udcff"]])  # fmt: skip
    return REFUSED


def unknown_stage(c: Call) -> str:
    c.stage = c.pick(["", "Prepare", "prepare ", "../prepare", "benchmark.prepare", "x" * 5000, "\udc80", "two\nlines",
                      "1", "run",
                      "all", "__init__", "preparex", "--prepare", "-", "プリペア"])  # fmt: skip
    c.keys = {}
    return REFUSED


def help_with_anything(c: Call) -> str:
    c.stage = c.pick(list(parsing.STAGES))
    c.words = [
        "--help",
        c.pick(["--model=x", "--model=stylegan3", "--preset=gpu", "--preset=nothing", "--json=true", "-h"]),
    ]
    return ANY


def sound_call(c: Call) -> str:
    c.words = c.pick([[], ["--json"], ["--strict=true"], ["--seed=3"], ["--prepare.seed=3"], ["--image_size", "24"],
                      ["--layout=brats2020"], ["--test_share=0.3"]])  # fmt: skip
    return PASSED


def model_key_anything(c: Call) -> str:
    c.stage = c.pick(["train_generator", "train_segmenter", "benchmark", "sample"])
    model = c.pick(parsing.model_names())
    key = c.pick(list(parsing.model_fields(model)))
    c.words = [f"--{model}.{key}={c.pick([*NUMBERS, *TEXTS[:12], '1,2,3', '8,-16', '8,,16', '1e9,1e9'])}"]
    if c.stage in ("train_generator", "sample") and model not in ("unet", "swin"):
        c.keys["model"] = model
    return ANY
