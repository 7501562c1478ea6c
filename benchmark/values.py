"""Kinds of values that settings take, each checked before anything runs: paths, lists, counts, registered names."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

import generators
import segmenters
from benchmark.data.labels import check_name
from benchmark.data.layouts import LAYOUTS
from benchmark.names import for_store

LONGEST_NAME, LONGEST_PATH = 255, 4095  # of most file systems, of Linux [bytes]


def split_commas(value: Any, name: str = "the value") -> Any:
    """The parts of a text between commas. Raises ValueError for an empty one, as an unset shell variable leaves."""
    if not isinstance(value, str):
        return value
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise ValueError(f"{name} is empty{' between two commas' if any(parts) else ''}: {_UNSET}")
    return parts


_UNSET = "was a variable not set? Give a value, or leave the key out"


def _name(info: ValidationInfo) -> str:
    return info.field_name or "the value"


def _split(value: Any, info: ValidationInfo) -> Any:
    return split_commas(value, _name(info))


def check_path(value: Any, info: ValidationInfo) -> Any:
    """Raises ValueError for what cannot be a path: nothing, no text, too long, or with characters no path has."""
    name = _name(info)
    if isinstance(value, Path):
        value = str(value)
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{name} is empty: {_UNSET}")
    if not isinstance(value, str):
        raise ValueError(f"{name} needs a path")
    if "\0" in value:
        raise ValueError(f"{name} holds a NUL character, which no path can")
    try:
        length = len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds bytes that are no UTF-8: rename it, or make a link to it") from error
    if length > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in value.split("/")):
        raise ValueError(f"{name} is longer than a path can be")
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: there is no home folder of the user that '~' names") from error
    return value


def _check_file(path: Path, info: ValidationInfo) -> Path:
    """Whether it is there is asked when it is read; what is there must be a file."""
    try:
        wrong = path.expanduser().exists() and not path.expanduser().is_file()
    except OSError as error:
        raise ValueError(f"{_name(info)} cannot be read ({error.strerror})") from error
    if wrong:
        raise ValueError(f"{_name(info)} is a folder or a device, but a file is needed")
    return path


def _check_folder(path: Path, info: ValidationInfo) -> Path:
    """That something can be written into it, or that it can be made; `~` is the home folder from here on."""
    place = path = path.expanduser()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise ValueError(f"{_name(info)} needs a folder, and '{place}' is none")
    except OSError as error:
        raise ValueError(f"{_name(info)} cannot be used ({error.strerror})") from error
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{_name(info)}: nothing can be written into '{place}'")
    return path


def split_paths(value: Any, info: ValidationInfo) -> Any:
    """The paths of a comma-separated text; a comma inside a path that is there separates nothing."""
    if not isinstance(value, str) or _is_there(value):
        return (value,) if isinstance(value, str) and value else value
    pieces, paths = list(_split(value, info)), []
    raw = value.split(",")
    while raw:
        whole = next((n for n in range(len(raw), 1, -1) if _is_there(",".join(raw[:n]).strip())), 1)
        paths.append(",".join(raw[:whole]).strip() if whole > 1 else pieces[len(pieces) - len(raw)])
        raw = raw[whole:]
    return tuple(paths)


def _is_there(path: str) -> bool:
    try:
        return path.strip() != "" and Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _number(value: Any, info: ValidationInfo) -> Any:
    """Refuses yes and no, which Python counts as 1 and 0, and a key without a value."""
    if isinstance(value, bool):
        raise ValueError(f"{_name(info)} needs a number")
    return value


def _whole(value: Any, info: ValidationInfo) -> Any:
    """Takes 1e6, too."""
    value = _number(value, info)
    match = isinstance(value, str) and re.fullmatch(r"(\d{1,15})(?:\.(\d{1,15}))?[eE]\+?(\d{1,2})", value.strip())
    if not match:
        return value
    digits, fraction, exponent = match[1], (match[2] or "").rstrip("0"), int(match[3])
    return int(digits + fraction) * 10 ** (exponent - len(fraction)) if len(fraction) <= exponent else value


def _share(value: Any, info: ValidationInfo) -> Any:
    """What rounding put at most one part in a million above 1 is 1."""
    value = _number(value, info)
    try:
        return 1.0 if 1 < float(value) <= 1 + 1e-6 else value
    except (TypeError, ValueError, OverflowError):  # no number: said by whoever reads it
        return value


def _text(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value.strip():
        empty = value is None or isinstance(value, str)
        raise ValueError(f"{_name(info)} is empty: {_UNSET}" if empty else f"{_name(info)} needs a text")
    return value


def _unless_none(check: Callable[[Any, ValidationInfo], Any]) -> Callable[[Any, ValidationInfo], Any]:
    return lambda value, info: None if value is None else check(value, info)


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text), Field(max_length=500)]
PathText = Annotated[str, BeforeValidator(check_path)]
Folder = Annotated[Path, BeforeValidator(check_path), AfterValidator(_check_folder)]  # to write into
File = Annotated[Path, BeforeValidator(check_path), AfterValidator(_check_file)]
TextOrNone = Annotated[Annotated[str, Field(max_length=500)] | None, BeforeValidator(_unless_none(_text))]
PathTextOrNone = Annotated[str | None, BeforeValidator(_unless_none(check_path))]
FolderOrNone = Annotated[Path | None, BeforeValidator(_unless_none(check_path))]
FileOrNone = Annotated[
    Path | None, BeforeValidator(_unless_none(check_path)), AfterValidator(_unless_none(_check_file))
]
Listed = BeforeValidator(_split)  # a comma-separated list on the command line, a YAML list in a preset
ListedPaths = BeforeValidator(split_paths)
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)]
Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]
ShareOrNone = Annotated[Annotated[float, Field(ge=0, le=1)] | None, BeforeValidator(_unless_none(_share))]

# --- what settings of stages take ------------------------------------------------------------------------------------


def _shown(name: Any) -> str:
    return for_store(str(name), most=100)


def _known(*registries) -> BeforeValidator:
    def check(name: Any) -> Any:
        known = [known for registry in registries for known in registry.names()]
        if name not in known:
            raise ValueError(f"'{_shown(name)}' is not one of: {', '.join(known)}")
        return name

    return BeforeValidator(check)


def _known_layout(name: Any) -> Any:
    if isinstance(name, str) and (name in ("auto", *LAYOUTS) or name.lower().endswith((".yaml", ".yml"))):
        return name
    raise ValueError(
        f"'{_shown(name)}' is not one of: auto, {', '.join(LAYOUTS)}; or a .yaml file of your own patterns"
    )


Layout = Annotated[str, BeforeValidator(_known_layout)]
Labels = Annotated[str, AfterValidator(check_name)]
TrainOn = Literal["real", "synthetic", "both", "pretrain"]
Arm = Literal["real", "synthetic", "synthetic_last", "both", "pretrain"]  # of the table
GeneratorName = Annotated[str, _known(generators)]
SegmenterName = Annotated[str, _known(segmenters)]
ModelName = Annotated[str, _known(generators, segmenters)]
Images = Annotated[Whole, Field(ge=1, le=10**10)]  # training budget
Batch = Annotated[Whole, Field(ge=1, le=8192)]
Snapshots = Annotated[Whole, Field(ge=1, le=10_000)]
Seconds = Annotated[Number, Field(ge=0, le=10**7)]
Axis = Annotated[Whole, Field(ge=8, le=512)]
