"""Which device computes, and what it can do."""

import logging
import platform
from functools import cache
from pathlib import Path

import torch

from benchmark.cores import cores
from benchmark.errors import UserError

CPU_INFO, LOAD = Path("/proc/cpuinfo"), Path("/proc/loadavg")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")  # that decide how fast networks are; bf16: Arm's
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
BF16_CAPABILITY = (8, 0)  # NVIDIA's Ampere

log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """'auto' is a GPU where there is one. Raises UserError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: '{name}' asked for, but this torch ({torch.__version__}) sees no GPU; use device=cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: '{name}' asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0")
    return device


def pick_devices(name: str) -> list[torch.device]:
    """All devices that independent pieces of work are shared by: every GPU for 'auto' and 'cuda', else the named one.

    Raises UserError for a GPU that is not there.
    """
    first = pick_device(name)
    if first.type == "cuda" and first.index is None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [first]


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16, or has to emulate it; False where that cannot be told.

    Not what torch says of itself: it takes any AVX-512, and GPUs that emulate, for support.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return torch.backends.mkldnn.is_available() and not NATIVE_BF16.isdisjoint(cpu()[1])


def device_name(device: torch.device) -> str:
    """'NVIDIA H100 80GB HBM3', or 'AMD EPYC, 2 threads'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu()[0]}, {threads} {'thread' if threads == 1 else 'threads'}"


def machine(device: torch.device) -> dict[str, str]:
    """What a training's speed depends on, as tags of its run."""
    name, flags = cpu()
    facts = {
        "machine.cpu": name,
        "machine.instructions": " ".join(flag for flag in INSTRUCTIONS if flag in flags),
        "machine.cores": str(cores()),
        "machine.threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        facts["machine.gpu"] = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return facts


def warn_where_busy(device: torch.device) -> None:
    """Says what to do where other programs use cores that torch's threads count on.

    A step is as slow as its last thread, and the others spin meanwhile: the U-Net at 32 px trained at 3 to 46 images/s
    with two threads on two busy cores, at 262 with one. Passive waiting changed little, and took a third of the speed
    on quiet cores.
    """
    threads, busy = torch.get_num_threads(), _busy_cores()
    if device.type == "cpu" and threads > 1 and busy:
        log.warning(
            "other programs keep %d of %d cores busy, so torch's %d threads wait for each other: small networks train "
            "many times slower than with one. Wait for those programs, or set OMP_NUM_THREADS=%d (results then differ "
            "in their last bits)",
            min(busy, cores()),
            cores(),
            threads,
            max(1, min(threads, cores() - busy)),
        )


def _busy_cores() -> int:
    """That others use, both now and over the last minute; 0 where the system does not say so."""
    try:
        last_minute, _, _, running, _ = LOAD.read_text().split()
    except (OSError, ValueError):
        return 0
    others = int(running.partition("/")[0]) - 1  # this thread is one
    return max(0, round(min(float(last_minute), others)))


@cache  # a large table asks thousands of times
def cpu() -> tuple[str, frozenset[str]]:
    """The processor's name and its instruction sets, as Linux lists them; elsewhere no instruction set is known."""
    try:
        first, _, _ = CPU_INFO.read_text().partition("\n\n")  # the others are alike
    except OSError:
        first = ""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(facts.get("flags", facts.get("Features", "")).split())
