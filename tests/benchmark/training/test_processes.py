"""Several processes train what one would: same gradients, same weights, whatever their number."""

import copy
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
import torch

import generators
import segmenters
from benchmark.config import Config
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.parsing import STAGES, parse
from benchmark.stages import Task, train_generator, train_segmenter
from benchmark.training import loop, processes
from benchmark.training.checkpoints import Checkpoints
from benchmark.training.loop import Budget, Training
from benchmark.training.models import create_segmenter
from segmenters import parallel
from segmenters.augment import augment
from segmenters.base import normalize
from tests.benchmark.training import small
from tests.benchmark.training.small import BATCH, RESOLUTION, TINY

# Everything that draws or averages over a batch is switched on, but for layers that draw by themselves.
EXACT = {
    "progressive_gan": {**TINY["progressive_gan"], "mirror": True},
    "stylegan1": {**TINY["stylegan1"], "mirror": True},
    "stylegan2": {
        **TINY["stylegan2"],
        "mirror": True,
        "augmentation": True,
        "augmentation_images": 100,
        "augmentation_quarter_turns": True,
        "path_length_interval": 1,
        "r1_interval": 1,
    },
    "stylegan3": {**TINY["stylegan3"], "mirror": True, "r1_interval": 1, "layers": 6},
    "diffusion": {
        **TINY["diffusion"],
        "mirror": True,
        "dropout": 0,
        "precision": "fp32",
        "learning_rate": 0.1,
        "warm_up": 32,
    },
    "unet": {**TINY["unet"], "precision": "fp32"},
    "swin": {**TINY["swin"], "drop_path": 0, "precision": "fp32"},
}


def create(name):
    """With plain gradient descent: Adam makes a whole step of a gradient that is zero but for rounding."""
    torch.manual_seed(0)
    if name in segmenters.names():
        model = segmenters.create(name, 4, 4, RESOLUTION, images=96, **EXACT[name])
    else:
        model = generators.create(name, 5, RESOLUTION, **EXACT[name])
    for key, network in model.networks.items():
        model.optimizers[key] = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    if hasattr(model, "augmentation"):
        model.augmentation.p = 0.5
    return model


def read(seen):
    return torch.from_numpy(small.read(seen)[processes.share()])


def leads():
    return processes.share().start == 0


def close(expected, found, tolerance):
    """Nested states are the same but for rounding."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance / 10, check_dtype=False)


def trained(state):
    """Of a model's state, all but its optimizers, whose moments of vanishing gradients are nothing but rounding."""
    return {key: value for key, value in state.items() if key != "optimizers"}


def training(name, images=32, snapshots=1, **more):
    def segmenter_batch(images):
        return augment(images[:, :4], (images[:, 4] > 0.5).long())

    to_batch = segmenter_batch if name in segmenters.names() else lambda images: (images,)
    return Training("test", create(name), read, to_batch, Budget(images, BATCH, 7, snapshots, 1e9, **more))


def member(rank, count, folder, work, arguments):
    """One of several processes that train together."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    work(folder, *arguments)
    torch.distributed.destroy_process_group()


def together(folder, work, *arguments, count=2):
    """Runs work(folder, *arguments) in several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    members = [context.Process(target=member, args=(rank, count, folder, work, arguments)) for rank in range(count)]
    for process in members:
        process.start()
    for process in members:
        process.join(60)
        if process.is_alive():
            process.kill()
    (folder / "store").unlink(missing_ok=True)
    assert [process.exitcode for process in members] == [0] * count


def take_steps(folder, source=None):
    """Two steps of every model, each from the state in `source`: gradients of optimizers' steps, losses, new state."""
    states, results = source and torch.load(source, weights_only=True), {}
    for name in EXACT:
        work, gradients = training(name), []
        model = work.model
        for optimizer in model.optimizers.values():

            def keep(optimizer, *_, gradients=gradients):
                parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

            optimizer.register_step_pre_hook(keep)
        results[name] = []
        for step, seen in enumerate((0, 3 * BATCH)):
            if states:
                model.load_state_dict(states[name][step]["before"])
            before = copy.deepcopy(model.state_dict())
            gradients.clear()
            with closing(work.steps(seen)) as ahead:
                losses = next(ahead)
            after = copy.deepcopy(model.state_dict())
            results[name].append({"before": before, "gradients": list(gradients), "losses": losses, "after": after})
    if leads():
        torch.save(results, folder / "steps.pt")


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """The same steps in one process and in two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    take_steps(one)
    together(two, take_steps, one / "steps.pt")
    return torch.load(one / "steps.pt", weights_only=True), torch.load(two / "steps.pt", weights_only=True)


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_take_the_steps_of_one(steps, name):
    for expected, found in zip(steps[0][name], steps[1][name], strict=True):
        assert len(expected["gradients"]) == len(found["gradients"]) >= len(create(name).optimizers)
        for one, two in zip(expected["gradients"], found["gradients"], strict=True):
            assert (two - one).norm() < 1e-5 * one.norm()
        close(expected["losses"], found["losses"], 1e-5)
        close(trained(expected["after"]), trained(found["after"]), 1e-5)


def test_the_steps_draw_and_average_all_that_they_can(steps):
    """So that the test above does not pass for want of anything to see."""
    last = {name: results[-1]["after"] for name, results in steps[0].items()}
    assert 0 < last["stylegan2"]["extra"]["augmentation"]["p"] < 0.5
    assert last["stylegan2"]["extra"]["path_length"] > 0
    assert {"r1", "path_penalty", "ada_p"} <= steps[0]["stylegan2"][-1]["losses"].keys()
    assert 2 < last["progressive_gan"]["networks"]["generator"]["level"] < 3
    assert last["stylegan3"]["networks"]["generator"]["layers.3.magnitude"] != 1
    for model in (last["stylegan1"], last["stylegan2"]):
        assert model["networks"]["generator"]["mapping.mean"].norm() > 0


def step_alone(folder):
    """The leader's step on a whole batch, while the others do nothing; then one that all take together."""
    work = training("unet")
    if leads():
        with processes.alone():
            loss = work.model.train_step(*work.to_batch(torch.from_numpy(small.read(0))), 0)["loss"]
            (folder / "alone.json").write_text(json.dumps([processes.world(), loss.item()]))
    with closing(work.steps(0)) as steps:
        next(steps)


def test_what_the_leader_trains_alone_waits_for_nobody(tmp_path):
    work = training("unet")
    loss = work.model.train_step(*work.to_batch(torch.from_numpy(small.read(0))), 0)["loss"].item()
    together(tmp_path, step_alone)
    assert json.loads((tmp_path / "alone.json").read_text()) == [1, pytest.approx(loss)]


def train_all(folder, images):
    """Trains every model for so many images, from its newest checkpoint on."""
    for name in EXACT:
        work = training(name, images)
        train(work, folder / name, lambda seen: 0.0)
        if leads():
            torch.save(work.model.state_dict(), folder / f"{name} {images}.pt")


def train(work, folder, measure, team=None):
    if not leads():
        return loop.assist(work, folder)
    folder.mkdir(exist_ok=True)
    return small.run(work, folder, lambda seen: {"score": measure(seen)}, team=team)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trainings in one process, from beginning to end."""
    folder = tmp_path_factory.mktemp("whole")
    train_all(folder, 32)
    return folder


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_checkpoints_move_between_numbers_of_processes(whole, tmp_path, counts):
    for count, images in zip(counts, (16, 32), strict=True):
        if count == 1:
            train_all(tmp_path, images)
        else:
            together(tmp_path, train_all, images)
    for name in EXACT:
        expected, found = (torch.load(path / f"{name} 32.pt", weights_only=True) for path in (whole, tmp_path))
        close(trained(expected), trained(found), 1e-4)


def end_in_every_way(folder):
    """Asserts in the leader; a helper that misses an end hangs."""

    team = processes.Team()

    def attempt(name, measure):
        return train(training("unet", 48, 6, patience=1), folder / name, measure, team)

    progress = attempt("stopped", lambda seen: -seen)
    assert not leads() or (progress.seen, progress.best_seen) == (16, 8)
    progress = attempt("stopped", lambda seen: pytest.fail("it had stopped"))
    assert not leads() or progress.seen == 16
    with pytest.raises(ZeroDivisionError) if leads() else nullcontext():
        attempt("failed", lambda seen: 1 / (seen - 8))
    team.call({"stage": "next"}) if leads() else processes.announce()

    torch.manual_seed(3)
    common = torch.rand(1)
    torch.manual_seed(3)
    parallel.part_ways()
    assert len({*parallel.gather(torch.rand(1)).tolist(), common.item()}) == 3

    with pytest.raises(UserError, match="batch_size: 12 images cannot be shared by 2"):
        processes.check_share(12, 4)
    processes.check_share(12)
    if leads():  # a training that never comes to its end
        with pytest.raises(UserError, match="start the same command again"):
            team.call({"stage": "another"})


def test_helpers_end_with_their_leader(tmp_path):
    together(tmp_path, end_in_every_way)


TRAIN_AND_LEAVE = """
import time
from pathlib import Path
import torch
from benchmark.training import processes

def threads():
    return {task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}

with processes.joined("cpu"):
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    deadline = time.monotonic() + 30
    while "pt_gloo_runloop" not in threads():  # a thread has its name only once it runs
        assert time.monotonic() < deadline
        time.sleep(0.01)
print(sorted(threads()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed by Linux's /proc")
def test_no_thread_of_the_group_is_left_to_abort_a_process_that_ends(free_port):
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", TRAIN_AND_LEAVE]
    call = subprocess.run(command, env={**os.environ, **alone}, capture_output=True, text=True, timeout=120)
    assert call.returncode == 0, call.stderr
    assert "gloo" not in call.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_helpers_read_the_configuration_that_the_leader_sends(stage):
    config = parse(stage, {"preset": "smoke", "unet.learning_rate": "0.01"})
    sent = json.loads(json.dumps(config.model_dump(mode="json", by_alias=True)))
    assert Config.model_validate(sent) == config


def torchrun(folder, port, *arguments):
    start = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    common = ["--preset", "smoke", "--work_dir", str(folder / "work"), "--device", "cpu", "--workers", "1", "--json"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    command = [sys.executable, *start, "-m", "benchmark", *arguments, *common]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_torchrun_trains_what_one_process_trains(prepared, tmp_path, free_port):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    exact = {"unet.precision": "fp32", "extractor.images": "16", "extractor.batch_size": "16"}
    arguments = [word for key, value in exact.items() for word in (f"--{key}", value)]
    call = torchrun(tmp_path, free_port(), "train_segmenter", *arguments)
    assert call.returncode == 0, call.stderr
    (line,) = call.stdout.splitlines()
    result = json.loads(line)
    assert (result["status"], result["images"]) == ("FINISHED", 128)

    (stored,) = (tmp_path / "work/prepare").glob("*/images.npy")
    config = parse("train_segmenter", {"preset": "smoke", "device": "cpu", **exact})
    real = SliceSet.open(stored.parent)
    phases = train_segmenter.phases_of(Task(config, {}, tmp_path / "one"), real)
    one = train_segmenter.training_of(config, real, phases, torch.device("cpu"))
    train(one, tmp_path / "one", lambda seen: 0.0)
    two, start = (create_segmenter(config, real.meta["image_size"]) for _ in range(2))
    Checkpoints(Path(result["path"]) / "checkpoints").restore(two)
    images = normalize(torch.from_numpy(real.images[:4].copy()))
    learned = (one.model.predict(images) - start.predict(images)).abs().max()
    assert (one.model.predict(images) - two.predict(images)).abs().max() < 1e-3 * learned


def test_a_batch_that_cannot_be_shared_is_refused_before_a_step(prepared, monkeypatch):
    (stored,) = (prepared / "work/prepare").glob("*/images.npy")
    config = parse("train_generator", {"preset": "smoke", "model": "stylegan2", "train_generator.batch_size": "12"})
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(UserError, match="batch_size: 12 images cannot be shared by 2 processes"):
        train_generator.training_of(config, SliceSet.open(stored.parent), torch.device("cpu"))
