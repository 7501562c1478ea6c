"""A layout that a user describes: a YAML file with a path pattern per modality and annotation (docs/cohorts.md)."""

import os
import re
from collections import defaultdict
from pathlib import Path

import yaml

from benchmark.data.layouts import ROLES, Case
from benchmark.data.tree import Tree
from benchmark.errors import UserError

EXAMPLE = "T1: '{subject}/{subject}_T1w.nii.gz'"
LONGEST = 100_000  # bytes of such a file


def read_patterns(path: Path) -> dict[str, str]:
    """Role → pattern, of paths relative to the cohort's folder: {subject} is its name, * any part of a name.

    Raises UserError for a file that is none, is not UTF-8 or YAML, or lacks a key or has another one.
    """
    if not os.path.isfile(path):
        raise UserError(f"layout: '{path}' is no file: give a known layout, or a YAML file such as {EXAMPLE}")
    if path.stat().st_size > LONGEST:
        raise UserError(f"{path}: more than {LONGEST:,} bytes are no layout: five lines such as {EXAMPLE} are")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}): save the layout as UTF-8 text") from error
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected lines such as {EXAMPLE}, found {type(content).__name__}")
    for what, keys in (("unknown", content.keys() - set(ROLES)), ("missing", set(ROLES) - content.keys())):
        if keys:
            listed = ", ".join(sorted(map(str, keys)))
            raise UserError(f"{path}: {what} key {listed}; a layout has exactly {', '.join(ROLES)}")
    for role, pattern in content.items():
        if not isinstance(pattern, str) or "{subject}" not in pattern:
            raise UserError(f"{path}: {role}: {pattern!r} is no path with {{subject}} in it, such as {EXAMPLE}")
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise UserError(f"{path}: {role}: '{pattern}' must be relative to the cohort's folder, and stay in it")
    return content


def by_patterns(tree: Tree, layout: Path) -> list[Case]:
    """The cases that a layout file finds. Raises UserError where a pattern fits no file, or the layout is wrong."""
    patterns = read_patterns(layout)
    names = {path.relative_to(tree.folder).as_posix(): path for path in tree.files}
    by_subject: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for role, pattern in patterns.items():
        expression = _expression(pattern)
        found = [(match["subject"], path) for name, path in names.items() if (match := expression.fullmatch(name))]
        if not found:
            example = f", e.g. {next(iter(names))}" if names else ""
            raise UserError(f"{layout}: {role}: '{pattern}' fits none of {len(names)} NIfTI files{example}")
        for subject, path in found:
            by_subject[subject][role].append(path)
    cases = []
    for subject, files in by_subject.items():
        expected = {role: patterns[role].replace("{subject}", subject) for role in ROLES}
        cases.append(Case(subject, tree.folder, expected, files))
    return cases


def _expression(pattern: str) -> re.Pattern:
    """{subject} is the same wherever it stands, and as long as it can be; neither it nor * crosses a folder."""
    before, *after = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("{subject}")]
    return re.compile(before + "(?P<subject>[^/]+)" + "(?P=subject)".join(after))
