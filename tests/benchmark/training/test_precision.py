"""`precision=auto`: what a machine decides, that a work folder keeps it, and that fingerprints hold it."""

import json
import logging

import pytest
import torch

import generators
import segmenters
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import Failure, fingerprint, trained
from benchmark.table.cells import jobs
from benchmark.table.executors import Serial
from benchmark.training import devices, precision
from benchmark.training.precision import Decision

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\nmodel name\t: Another\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd {}\n\n"

OLD, NEW = Decision("cpu", "an old CPU", False), Decision("cpu", "a new CPU", True)
GPU = Decision("cuda", "a GPU", True)


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """cpu(text) has /proc/cpuinfo say that; None: there is no such file."""

    def be(text):
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(devices, "CPU_INFO", path)
        devices.cpu.cache_clear()

    yield be
    devices.cpu.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """machine(decision) has this machine decide so."""
    return lambda decision: monkeypatch.setattr(precision, "own", lambda device: decision)


def call(folder, stage="train_segmenter", **given):
    return parse(stage, {"preset": "smoke", "work_dir": str(folder), **given})


@pytest.mark.parametrize(
    ("text", "native"),
    [
        (X86.format("avx512f avx512_bf16"), True),
        (X86.format("amx_bf16 amx_tile"), True),
        (X86.format("avx512f avx512_vnni"), False),  # which torch itself takes for support
        (X86.format(""), False),
        (ARM.format("i8mm bf16"), True),
        (ARM.format("i8mm"), False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_computes_bf16_where_linux_lists_the_instructions(cpu, text, native):
    cpu(text)
    assert devices.computes_bf16(torch.device("cpu")) == native


@pytest.mark.parametrize(("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((10, 0), True)])
def test_a_gpu_computes_bf16_from_capability_8_on(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.computes_bf16(torch.device("cuda")) == native


def test_a_machine_s_facts_name_its_processor_and_only_what_it_has(cpu):
    cpu(X86.format("avx512f avx512_bf16 sse"))
    facts = devices.machine(torch.device("cpu"))
    assert facts["machine.cpu"] == "Some CPU"
    assert facts["machine.instructions"] == "avx2 avx512f avx512_bf16"
    assert facts["machine.threads"] == str(torch.get_num_threads())
    assert devices.device_name(torch.device("cpu")).startswith("Some CPU, ")


@pytest.mark.parametrize("decision", [OLD, NEW, GPU])
def test_models_compute_in_bf16_where_they_gain_by_it(tmp_path, machine, decision):
    machine(decision)
    fast = {
        name: precision.resolve_model(call(tmp_path), name)["precision"]
        for name in (*generators.names(), *segmenters.names())
    }
    slow_on_cpu = {"stylegan1", "stylegan2", "stylegan3"}
    gains = {OLD: set(), NEW: fast.keys() - slow_on_cpu, GPU: fast.keys()}[decision]
    assert {name for name, answer in fast.items() if answer == "bf16"} == gains


def test_what_is_given_is_not_decided(tmp_path, machine):
    for decision, given in ((OLD, "bf16"), (GPU, "fp32")):
        machine(decision)
        config = call(tmp_path, **{"unet.precision": given})
        assert precision.resolve_model(config, "unet")["precision"] == given


def test_the_fingerprint_holds_the_answer(tmp_path, machine):
    machine(NEW)
    auto = fingerprint("train_segmenter", call(tmp_path))
    assert auto == fingerprint("train_segmenter", call(tmp_path, **{"unet.precision": "bf16"}))
    machine(OLD)
    assert fingerprint("train_segmenter", call(tmp_path)) == fingerprint(
        "train_segmenter", call(tmp_path, **{"unet.precision": "fp32"})
    )
    assert fingerprint("train_segmenter", call(tmp_path)) != auto


def test_a_work_folder_keeps_what_its_first_machine_decided(tmp_path, machine):
    """Moved to another machine, or with a GPU put in, all of a table is still found finished."""
    machine(GPU)
    config = call(tmp_path, "benchmark", model="stylegan3,diffusion")
    assert precision.keep(config) == GPU
    planned = [job.fingerprint for job in jobs(config)]
    machine(OLD)
    assert precision.keep(config) == precision.decision(config) == GPU
    assert [job.fingerprint for job in jobs(config)] == planned


def test_planning_decides_but_keeps_nothing(tmp_path, machine):
    machine(OLD)
    folder = tmp_path / "work"
    config = call(folder)
    fingerprint("train_segmenter", config)
    assert not (folder / precision.FILE).exists()
    machine(NEW)
    assert precision.decision(config) == NEW
    assert precision.keep(config, lambda device: GPU) == GPU  # as a cluster's worker answers
    assert precision.decision(config) == GPU


def test_a_gpu_that_is_not_there_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = call(tmp_path, device="cuda")
    assert not precision.decision(config).bf16  # a plan can be made
    with pytest.raises(UserError, match="sees no GPU"):
        precision.keep(config)
    assert not (tmp_path / precision.FILE).exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "tpu", "name": "", "bf16": true}', '{"kind": "cpu"'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / precision.FILE).write_text(content)
    with pytest.raises(UserError, match=r"precision\.json: cannot be read .* delete it"):
        precision.resolve_model(call(tmp_path), "unet")


def test_the_file_says_who_decided(tmp_path, machine):
    machine(NEW)
    precision.keep(call(tmp_path))
    assert json.loads((tmp_path / precision.FILE).read_text()) == {"kind": "cpu", "name": "a new CPU", "bf16": True}


def test_a_machine_that_emulates_says_so_once_and_names_the_keys(tmp_path, machine, caplog):
    machine(NEW)
    config = call(tmp_path, "benchmark", model="stylegan2,diffusion")
    precision.keep(config)
    planned = jobs(config)
    list(zip(Serial(config.benchmark, None).run([], {}, None), [], strict=True))
    assert not caplog.records  # nothing is left to train

    machine(OLD)
    with caplog.at_level(logging.WARNING):
        next(Serial(config.benchmark, None).run(planned, _AllFailed(planned), None))
    (said,) = caplog.messages
    assert said.startswith(str(tmp_path / precision.FILE))
    assert "a new CPU" in said
    assert "an old CPU has to emulate that" in said
    assert "give diffusion.precision=fp32, unet.precision=fp32, or delete" in said
    assert "stylegan" not in said  # computes in fp32 on both


def test_who_gave_a_precision_is_not_warned(tmp_path, machine, caplog):
    machine(NEW)
    config = call(tmp_path, **{"unet.precision": "bf16"})
    precision.keep(config)
    machine(OLD)
    precision.warn_of_mismatch(config, trained("train_segmenter", config))
    assert not caplog.records


def test_a_stage_s_models_are_those_that_it_trains_or_has_trained(tmp_path):
    assert trained("prepare", call(tmp_path, "prepare")) == set()
    config = call(tmp_path, "evaluate", train_on="synthetic", synthetic="diffusion", segmenter="swin")
    assert trained("evaluate", config) == {"diffusion", "swin", "unet"}


class _AllFailed(dict):
    """Outcomes of parents: none came to anything, so nothing is run."""

    def __init__(self, planned):
        super().__init__({job.fingerprint: Failure(job.stage, "no", job.folder) for job in planned})
