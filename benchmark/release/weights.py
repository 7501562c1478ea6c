"""A generator's weights in a package, with all that a stranger needs to sample from them: no pipeline of ours.

The code of the generators lies beside them, as it was: a stranger who must first find the right version of somebody's
package samples from nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

import generators
from benchmark.data.foreign.package import CHANNELS
from benchmark.errors import UserError
from benchmark.release.writing import PackageFiles

FOLDER = "weights"


def write_weights(
    files: PackageFiles,
    name: str,
    trained: Sequence[Path],
    *,
    annotation: str,
    channels: int,
    size: int,
    config: dict[str, Any],
) -> None:
    """Adds weights/: the tensors, config.json, sample.py and the folder generators.

    name: of the generator; trained: its weights, a file for each member of an ensemble; annotation: how it draws that;
    channels, size, config: what `generators.create` is told. Raises UserError for a generator of another package, whose
    code is not ours to put in.
    """
    if not generators.load(name).__module__.startswith("generators."):
        raise UserError(f"weights=true: the code of {name} is no part of Stand-In, so strangers could not use them")
    names = [f"generator_{number}.safetensors" for number in range(len(trained))]
    described = {
        "generator": name,
        "channels": channels,
        "size": size,
        "annotation": annotation,
        "names": list(CHANNELS),
        "weights": names,
        "config": config,
    }
    files.add(f"{FOLDER}/config.json", lambda: [(json.dumps(described, indent=1) + "\n").encode()])
    for own, path in zip(names, trained, strict=True):
        files.add(f"{FOLDER}/{own}", lambda path=path: [save(load_file(path))])  # tensors alone, whatever stood beside
    files.add(f"{FOLDER}/sample.py", lambda: [Path(__file__).with_name("sample.py").read_bytes()])
    for source in sorted(Path(generators.__file__).parent.glob("*.py")):
        files.add(f"{FOLDER}/generators/{source.name}", lambda source=source: [source.read_bytes()])
