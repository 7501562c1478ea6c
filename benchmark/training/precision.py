"""What `precision=auto` means: the device of a work folder's first training decides, for all that follow in it.

Fingerprints hold the answer, never "auto". As it stands in the folder and not in the machine, a table is of one
precision, a training goes on in the one that it began with, and what a GPU has trained is found finished on a laptop.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import generators
import segmenters
from benchmark import parsing
from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.files import locked, write_atomically
from benchmark.training.devices import computes_bf16, device_name, pick_device

FILE = "precision.json"  # in work_dir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """Which device decided, and what it can do."""

    kind: str  # cpu or cuda
    name: str
    bf16: bool  # whether it computes it natively

    def precision(self, model: type) -> str:
        """'bf16' where the device computes it natively and a model of this configuration class gains by it."""
        gains = self.kind != "cpu" or model.bf16_on_cpu
        return "bf16" if self.bf16 and gains else "fp32"


def resolve_model(config: Config, name: str, **fixed: Any) -> dict[str, Any]:
    """As `parsing.resolve_model`, with what 'auto' means here in its place.

    Raises UserError for a file of the work folder that cannot be read, too.
    """
    resolved = parsing.resolve_model(config, name, **fixed)
    if resolved.get("precision") == "auto":
        resolved["precision"] = decision(config).precision(_class(name))
    return resolved


def decision(config: Config) -> Decision:
    """The work folder's, or where it has none yet, the one that this machine would make. Writes nothing."""
    if (found := _kept(config.common.work_dir / FILE)) is not None:
        return found
    try:
        return own(config.common.device)
    except UserError:  # no such GPU here: the plan of a table whose trainings run elsewhere, or soon an error
        return Decision("cuda", config.common.device, False)


def keep(config: Config, decide: Callable[[str], Decision] | None = None) -> Decision:
    """The decision that holds from now on: the work folder's, or where it has none yet, what `decide` says.

    decide(device as configured) asks this machine, unless given. Raises UserError for a GPU that is not there.
    """
    path = config.common.work_dir / FILE
    with locked(path.with_suffix(".lock")):
        if (found := _kept(path)) is None:
            found = (decide or own)(config.common.device)
            write_atomically(path, json.dumps(asdict(found), indent=1))
    return found


def own(device: str) -> Decision:
    """What this machine decides; `device` as configured. Raises UserError for a GPU that is not there."""
    picked = pick_device(device)
    return Decision(picked.type, device_name(picked), computes_bf16(picked))


def warn_of_mismatch(config: Config, models: Iterable[str]) -> None:
    """Where this machine would have one of these models compute otherwise than the work folder does, says so."""
    found, mine = decision(config), own(config.common.device)
    other = {
        name: mine.precision(_class(name))
        for name in sorted(set(models))
        if parsing.resolve_model(config, name).get("precision") == "auto"
        and found.precision(_class(name)) != mine.precision(_class(name))
    }
    if not other:
        return
    slower = "has to emulate that, up to eleven times slower" if found.bf16 and not mine.bf16 else "is slower in it"
    log.warning(
        "%s: this work folder began on %s, which has %s train in %s; %s %s. To train anew in the other, give %s, or "
        "delete the file",
        config.common.work_dir / FILE,
        found.name,
        ", ".join(other),
        "bf16" if "fp32" in other.values() else "fp32",
        mine.name,
        slower,
        ", ".join(f"{name}.precision={precision}" for name, precision in other.items()),
    )


def _class(name: str) -> type:
    """The model's configuration class."""
    return (generators if name in generators.names() else segmenters).load(name).Config


def _kept(path: Path) -> Decision | None:
    try:
        facts = json.loads(path.read_bytes())
        found = Decision(**facts)
        if found.kind not in ("cpu", "cuda") or not isinstance(found.bf16, bool):
            raise ValueError("it is none of ours")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). It says in which precision the models of this folder compute: put it "
            "back, or delete it to have this machine decide anew; models in another precision are trained anew"
        ) from error
    return found
