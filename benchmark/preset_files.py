"""Presets: YAML files that list only differences from the defaults, or from a preset that they extend."""

from collections.abc import Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import UserError

PRESETS = Path(__file__).parent / "presets"
LARGEST = 2**17  # bytes of a preset's file: more would be parsed for a long time
LONGEST_CHAIN = 20  # presets that extend each other
_DEEPEST = 20  # values inside each other

Sections = dict[str, dict[str, Any]]


class _Loader(yaml.SafeLoader):
    """Plain values only: no key twice, no aliases (a few lines of which expand to gigabytes), no endless nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*) are not taken")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError("values lie too deep inside each other")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: '{min(twice)}' is given twice")
        return super().construct_mapping(node, deep)


def preset_path(name: str) -> Path:
    """Of a preset's name, or of a YAML file. Raises UserError where there is none, or it is no file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    try:
        if path.is_file():
            return path
        found = path.exists()
    except (OSError, ValueError):  # no name that a file can have
        found = False
    known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
    if found:
        raise UserError(f"preset '{_short(name)}' is not a file (presets: {known}; or a .yaml file)")
    raise UserError(f"no preset '{_short(name)}'{_nearest(name)} (presets: {known}; or a .yaml file)")


def _nearest(name: str) -> str:
    match = get_close_matches(name[:100], [preset.stem for preset in PRESETS.glob("*.yaml")], n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def _short(text: str) -> str:
    return text if len(text) < 100 else f"{text[:99]}…"


def load(path: Path) -> Sections:
    """What one file says, section by section, `extends` among them. Raises UserError, one sentence with the file."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise UserError(f"{path}: larger than any preset ({LARGEST // 2**10} KiB)")
    try:
        sections = _plain(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 (byte {error.start})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: a date that is none
        raise UserError(f"{path}: not readable as YAML: {_reason(error)}") from error
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise UserError(f"{path}: expected sections such as 'train_generator:', found {type(sections).__name__}")
    for section, values in sections.items():
        if not isinstance(section, str):
            raise UserError(f"{path}: {section!r} is no section's name")
        if section != "extends" and not isinstance(values, dict):
            raise UserError(f"{path}: section '{section}' must hold 'key: value' lines")
        for key in values if isinstance(values, dict) else ():
            if not isinstance(key, str):
                raise UserError(f"{path}: section '{section}': {key!r} is no key's name")
    return sections


def _plain(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return "too deeply nested" if isinstance(error, RecursionError) else str(error).partition("\n")[0]


def chain(name: str) -> list[tuple[Path, Sections]]:
    """The preset's file and those that it `extends`, the outermost base first.

    Raises UserError for a preset that is not there or is not one, and where they extend each other in a circle, or too
    many of them.
    """
    found: list[tuple[Path, Sections]] = []
    while name:
        path = preset_path(name)
        names = [known.stem for known, _ in found] + [path.stem]
        if path.resolve() in [known.resolve() for known, _ in found]:
            raise UserError(f"{found[-1][0]}: presets extend each other in a circle: {' → '.join(names)}")
        if len(found) == LONGEST_CHAIN:
            raise UserError(f"{path}: more than {LONGEST_CHAIN} presets extend each other: {' → '.join(names[:3])} → …")
        sections = load(path)
        base = sections.pop("extends", None)
        if base is not None and not (isinstance(base, str) and base.strip()):
            raise UserError(f"{path}: 'extends' needs the name of a preset, or a .yaml file")
        found.append((path, sections))
        name = base
    return found[::-1]
