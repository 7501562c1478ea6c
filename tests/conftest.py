"""What every process of the tests is told before it imports torch or MLflow, those that tests start included."""

import multiprocessing
import os

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side: `make test`
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else a server starts seven more processes

# Processes that tests fork start at once: their server, one for all tests of a process, has imported the models.
multiprocessing.set_forkserver_preload(
    [
        "benchmark.tune",
        "benchmark.stages.train_generator",
        *(f"generators.{name}" for name in ("progressive_gan", "stylegan1", "stylegan2", "stylegan3", "diffusion")),
        *(f"segmenters.{name}" for name in ("unet", "swin")),
    ]
)

SLOW = {
    "test_thread.py",
    "test_executors.py",
    "test_side_by_side.py",
    "test_tune.py",
    "test_runs.py",
    "test_processes.py",
    "test_fuzz.py",
}


def pytest_collection_modifyitems(items):
    """The slowest files first: whoever would begin one last leaves the other process without work."""
    items.sort(key=lambda item: item.path.name not in SLOW)
