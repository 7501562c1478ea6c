"""Who runs the table's jobs: this process, several of this machine, or the workers of a Ray cluster."""

from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.table.executors.cluster import OnRay
from benchmark.table.executors.serial import Executor, Serial
from benchmark.table.executors.side_by_side import SideBySide
from benchmark.tracking.store import Store
from benchmark.training import precision, processes
from benchmark.training.devices import pick_device


def executor(config: Config, store: Store) -> Executor:
    """The configured one, to be entered. Raises UserError as `OnRay` does."""
    if config.benchmark.executor == "ray":
        return OnRay(config.benchmark, store)
    return (SideBySide if _side_by_side(config) else Serial)(config.benchmark, store)


def at_once(config: Config) -> int:
    """How many jobs it will run at once; 1 for Ray, of whose cluster nothing is known before."""
    return SideBySide.at_once(config.benchmark) if _side_by_side(config) else 1


def _side_by_side(config: Config) -> bool:
    """Several processes would only stand in each other's way on one GPU, and where torchrun has them share every
    training."""
    if config.benchmark.executor != "processes" or processes.world() > 1:
        return False
    try:
        return pick_device(config.common.device).type == "cpu"
    except UserError:  # no such GPU: for the jobs to tell
        return False


def machine_decides(config: Config, store: Store, device: str) -> precision.Decision:
    """On precision decides a machine that trains, which a cluster's head, where the table is planned, may not be."""
    if config.benchmark.executor != "ray":
        return precision.own(device)
    with OnRay(config.benchmark, store) as cluster:
        return cluster.ask(precision.own, device)
