"""Presets, spoiled; each mutator says whether the call may pass."""

import os
from pathlib import Path

from benchmark import parsing
from benchmark.preset_files import PRESETS
from tests.fuzz.call_words import sound_call
from tests.fuzz.spoiled import ANY, PASSED, REFUSED, Call

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
    content[place:place] = c.pick([b"\0", b"\t", b"\xff", b"{", b"[", b": ", b"- ", b"&a ", b"*a",
                                   b"!!python/object:os.system ", b"? ",
                                   b"---\n", b"...\n", b"\xef\xbb\xbf", b"%YAML 9.9\n", b"'", b'"', b"\r", b"\xc2\x85",
                                   b"|\n", b"<<: "])  # fmt: skip
    c.preset(bytes(content))
    return ANY


def preset_of_another_encoding(c: Call) -> str:
    text = "# Größe\nprepare: {image_size: 16}\n"
    c.preset(c.pick([text.encode("latin-1"), text.encode("cp037"), text.encode("utf-16"), text.encode("utf-32"),
                     text.encode("utf-7"),
                     text.encode("utf-16-le"), b"\xef\xbb\xbf" + text.encode(), SMOKE + b"\xff\xfe", b"\0" * 100,
                     c.rng.bytes(2000),
                     b"\x7fELF" + c.rng.bytes(500), SMOKE + b"\xed\xa0\x80: 1"]))  # fmt: skip
    return ANY


def preset_nested_deeply(c: Call) -> str:
    depth = int(c.pick([50, 1000, 20_000]))
    text = c.pick(["[" * depth, "[" * depth + "]" * depth, "{a: " * depth + "1" + "}" * depth, "- " * depth,
                   "".join(f"{' ' * i}a:\n" for i in range(min(depth, 3000))),
                   "prepare: " + "{data: " * depth + "}" * depth,
                   "? " * depth, "!a " * depth, "&a " * depth])  # fmt: skip
    c.preset(text)
    return REFUSED


def preset_of_many_aliases(c: Call) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "\n".join(lines)
    c.preset(c.pick([text, text.replace("a11:", "prepare:"), "prepare: &p {data: *p}", "prepare: &p\n  <<: *p\n",
                     "&a [*a]", "*a",
                     "unet: {widths: &w [*w]}", "unet: &u {a: *u}", "extends: &e [*e]"]))  # fmt: skip
    return REFUSED


def preset_extends_anything(c: Call) -> str:
    value = c.pick(["mine.yaml", "nothing", "[smoke]", "{a: b}", "0", "1", "''", "null", "true", "1.5", "2026-01-01",
                    "../mine.yaml", "/dev/zero",
                    "folder", "fifo", "'smoke.yaml'", "smoke\\n", "'" + "x" * 5000 + "'", "'a/" + "b/" * 2500 + "'",
                    "[[[]]]", "!!binary aGk=",
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
    text = c.pick(["1: {a: b}", "null: {a: b}", "true: {a: b}", "1.5: {}", "[a, b]: {}", "? {a: b}\n: {}",
                   "2026-01-01: {}", "~: ~", "'': {}",
                   "prepare: {1: 2}", "prepare: {null: 2}", "prepare: {[1]: 2}", "prepare: {true: false}",
                   "prepare: {1.5: x, b: 2}",
                   "prepare: {'': 1}", "prepare: {2026-01-01: 1}", "stylegan3: {1: 2}", "stylegan3: {null: 1, a: 2}",
                   "unet: {[a]: 1}",
                   "unet: {1: 1, widths: [8]}", "models: {unet: {widths: [8]}}", "models: 3",
                   "prepare: {a: 1, 2: 3, null: 4}",
                   "!!binary aGk=: {}", "prepare: {!!binary aGk=: 1}", "<<: {a: b}", "<<: 1", "prepare: {<<: [1]}",
                   "=: 1"])  # fmt: skip
    c.preset(text)
    return REFUSED


def preset_sections_of_other_kinds(c: Call) -> str:
    text = c.pick(["prepare", "[]", "12", "null", "- prepare", "prepare:", "prepare: []", "prepare: 3",
                   "prepare: text", "unet: [8]", "unet: 3",
                   "prepare: !!set {a}", "prepare: !!omap [a: 1]", "!!python/object/apply:os.system ['touch hacked']",
                   "!!python/name:os.system",
                   "prepare: !!python/tuple [1]", "prepare: {data: !!python/object/new:os.system [x]}", "--- 1\n--- 2",
                   "prepare: {a: 1}\nprepare: 2",
                   "!!str", "!unknown {a: b}", "a: b: c", "\t", "prepare: {image_size: 16,}", "'unclosed", "@", "`",
                   "%", "&", "*", "!"])  # fmt: skip
    c.preset(text)
    return ANY


def preset_value_of_any_key(c: Call) -> str:
    sections = [*parsing.SECTIONS, *parsing.model_names()]
    section = c.pick(sections)
    fields = (
        parsing.model_fields(section)
        if section in parsing.model_names()
        else parsing.Config.model_fields[section].annotation.model_fields
    )
    if not fields:
        return sound_call(c)
    key = c.pick(list(fields))
    value = c.pick(["null", "[]", "{}", "[[1]]", "{a: b}", "text", "-1", "1e400", ".nan", ".inf", "-.inf", "9" * 400,
                    "true", "2026-01-01",
                    "[1, text]", "''", "!!binary aGk=", "!!set {a}", "0o17", "0b1", "1:30", "12:30:45", "[null]",
                    "[[]]", "\"\\0\"", "\"\\ud800\"",
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
            path = Path(
                c.pick(
                    [
                        "",
                        " ",
                        ".yaml",
                        "x" * 300 + ".yaml",
                        "no/such.yaml",
                        "../smoke",
                        "smoke.yml",
                        "SMOKE",
                        "\udc80.yaml",
                        "a\nb",
                        "/",
                    ]
                )
            )
        case 6:
            path = c.preset(b"# x\n" * 3_000_000)
        case _:
            path = c.preset(b"prepare: {image_size: 16}\n" * 20_000)
    c.keys["preset"] = str(path) if str(path) != "." else ""
    return ANY


def preset_sound(c: Call) -> str:
    c.preset(c.pick(["extends: smoke\n", "prepare: {image_size: 24}\n", "\n\n# nothing\n",
                     "extends: smoke\nstylegan3: {channel_base: 64}\n",
                     "extends: smoke\nprepare:\n  image_size: 16\n  seed: 5\n"]))  # fmt: skip
    return PASSED
