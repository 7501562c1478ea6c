"""Command line: python -m benchmark STAGE --key value …"""

import json
import os
import signal
import sys
from typing import Any

from analysis.text import visible_lines
from benchmark import parsing
from benchmark.config import Config
from benchmark.cores import cores
from benchmark.errors import UserError, was_interrupted
from benchmark.files import disk_fault
from benchmark.progress import log_on_screen

# glibc gives every freed block above 128 KiB back to the kernel and faults it in again; networks free many a step.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}

ONCE_MENDED = "once that is put right, the same command goes on where this one stopped"


def _overview() -> str:
    lines = ["usage: python -m benchmark STAGE [--key value …] [--json]", "", "stages, each pulls those that it needs:"]
    lines += [f"  {stage:<16} {parsing.stage_help(stage)}" for stage in parsing.STAGES]
    lines += ["", "python -m benchmark STAGE --help lists every key."]
    return "\n".join(lines)


def _describe(field: Any, value: Any) -> str:
    bounds = ", ".join(
        f"{symbol} {getattr(bound, name)}"
        for bound in field.metadata
        for name, symbol in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(bound, name)
    )
    default = _plain(field.default)
    here = "" if _plain(value) == default else f"; in this call: {_plain(value)}"
    return f"{field.description or ''}{f' ({bounds})' if bounds else ''}; default: {default}{here}"


def _plain(value: Any) -> str:
    return ",".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value).removesuffix(".0")


def _help(stage: str, given: dict[str, Any], config: Config) -> str:
    """Every key of the stage, then those of the stages it pulls, then the common ones; a named model's keys too."""
    lines = [f"{stage}: {parsing.stage_help(stage)}", ""]
    section_before = None
    values = config.model_dump(by_alias=True)
    for section, key, field in parsing.reachable(stage):
        if section != section_before:
            lines += ["", f"keys of {section}:" if section != "common" else "keys of every stage:"]
            section_before = section
        bare = section == "common" or section in parsing.places(stage, key)
        lines.append(f"  --{key if bare else f'{section}.{key}':<26} {_describe(field, values[section][key])}")
    models = [str(given[key]) for key in ("model", "segmenter") if given.get(key) in parsing.model_names()]
    for name in models:
        lines += ["", f"keys of {name}:"]
        values = parsing.resolve_model(config, name)
        lines += [
            f"  --{f'{name}.{key}':<26} {_describe(field, values[key])}"
            for key, field in parsing.model_fields(name).items()
        ]
    if not models:
        lines += ["", "A model's own keys are written --MODEL.key; '--model NAME --help' lists them."]
    return "\n".join(lines)


def _read(arguments: list[str]) -> dict[str, str | bool]:
    """`--key value`, `--key=value`, or `--key` alone for yes, which is no value for a key that needs another."""
    given: dict[str, str | bool] = {}
    position = 0
    while position < len(arguments):
        token = arguments[position]
        if not token.startswith("--") or token == "--":
            raise UserError(f"command line: expected --key value, found '{token}'")
        key, equals, value = token[2:].partition("=")
        position += 1
        if not equals:
            if position < len(arguments) and not arguments[position].startswith("--"):
                value = arguments[position]
                position += 1
            else:
                value = True
        if key in given:
            raise UserError(f"command line: key '{key}' is given twice")
        given[key] = value
    return given


def _tune_libraries() -> None:
    """Settings that libraries read before they work: torch's threads, of which it takes one for every core of the
    machine, whatever a container may use; and the allocator's, for which this same process starts anew."""
    if (count := cores()) < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(count))
    if sys.platform == "linux" and not _ALLOCATOR.keys() & os.environ.keys():
        os.environ.update(_ALLOCATOR)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "benchmark", *sys.argv[1:]])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _call(stage: str, config: Any, team: Any = None) -> Any:
    """Imports torch and mlflow, so only once the call is known to be right."""
    if stage == "tune":
        from benchmark.tune import tune

        return tune(config, team)
    if stage == "memorization":
        from benchmark.table.memorization import memorization

        return memorization(config, team)
    if stage == "sync":
        return _sync(config)
    from benchmark.table.run import call

    return call(stage, config, team)


def _call_together(stage: str, config: Any) -> Any:
    """One of several processes: the result where it leads, None where it helps."""
    from benchmark import stages
    from benchmark.training import processes

    with processes.joined(config.common.device) as team:
        return _call(stage, config, team) if team else stages.assist()


def _sync(config: Any) -> Any:
    from benchmark.stages import CallResult
    from benchmark.tracking.delivery import sync

    found = sync(config.common.work_dir)
    print(f"{len(found['delivered'])} runs delivered to the tracking store", file=sys.stderr)
    for run, artifacts in found["lost"].items():
        print(f"{run}: artifacts are missing, so its stage will run again: {'; '.join(artifacts)}", file=sys.stderr)
    for run, reason in found["left"].items():
        print(f"{run}: not delivered: {reason}", file=sys.stderr)
    status = "FAILED" if found["left"] else "FINISHED"
    return CallResult("sync", "", config.common.work_dir / "tracking", False, found, status)


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
    return 0


def _interrupted() -> int:
    print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    return 130


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 something failed, 2 the call was wrong, 130 interrupted."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return _print(_overview())
    stage, *rest = arguments
    try:
        wants_help = "--help" in rest or "-h" in rest
        given = _read([token for token in rest if token not in ("-h", "--help")])
        config = parsing.parse(stage, given)
        if wants_help:
            return _print(_help(stage, given, config))
    except UserError as error:
        print(visible_lines(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    _tune_libraries()
    log_on_screen()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # processes that torchrun started
    if not several or os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, _interrupt)  # a cluster's stop ends the run as KILLED, ready to resume
    try:
        result = _call_together(stage, config) if several else _call(stage, config)
    except UserError as error:
        print(visible_lines(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if was_interrupted(error):
            return _interrupted()
        if (fault := disk_fault(error)) is None:
            raise
        print(visible_lines(f"error: {fault}; {ONCE_MENDED}"), file=sys.stderr)
        return 1
    if result is None:  # a helper's
        return 0
    if config.common.json_:
        print(json.dumps(result.summary()))
    return 0 if result.status == "FINISHED" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
