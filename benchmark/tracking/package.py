"""A training's weights → the files of an MLflow model that needs neither this project nor pickle to be served.

The format: https://mlflow.org/docs/latest/ml/model, flavour python_function with a loader module.
"""

import importlib.metadata
import json
import platform
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import yaml

from benchmark.files import write_atomically
from benchmark.training import served

ROOT = Path(__file__).parents[2]
CODE = [  # what `served` imports of ours: a test loads a model with nothing else of this project in reach
    *(f"benchmark/{name}.py" for name in ("__init__", "errors", "training/__init__", "training/served")),
    *(f"benchmark/data/{name}.py" for name in ("__init__", "annotation", "dataset_json", "labels", "layouts", "tree")),
    *(
        path.relative_to(ROOT).as_posix()
        for room in ("generators", "segmenters")
        for path in (ROOT / room).glob("*.py")
    ),
]
REQUIREMENTS = ("einops", "mlflow", "monai", "numpy", "pydantic", "safetensors", "torch", "transformers")
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's oldest: the same code, the same bytes


def package(folder: Path, facts: Mapping[str, Any]) -> list[tuple[Path, str | None]]:
    """Writes an MLflow model's files into folder/model, for the weights that lie in `folder`; returns each file and the
    folder within the model that it belongs to.

    facts: name, channels, resolution and config of the model; a generator's annotation coding, a segmenter's classes.
    """
    size = facts["resolution"]
    slices = {"dtype": "uint8", "shape": [-1, 4, size, size]}
    inputs, outputs = {"dtype": "int64", "shape": [-1]}, {"dtype": "uint8", "shape": [-1, 5, size, size]}
    if "classes" in facts:
        inputs, outputs = slices, {"dtype": "uint8", "shape": [-1, size, size]}
    loader = {
        "loader_module": served.__name__,
        "data": "data",
        "code": "code.zip",
        "env": {"virtualenv": "python_env.yaml"},
        "python_version": platform.python_version(),
    }
    signature = {"inputs": _tensor(inputs), "outputs": _tensor(outputs), "params": None}
    described = {
        "flavors": {"python_function": loader},
        "mlflow_version": mlflow.__version__,
        "signature": signature,
    }
    python = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in REQUIREMENTS]
    here = folder / "model"
    for name, content in {
        "MLmodel": yaml.safe_dump(described),
        "python_env.yaml": yaml.safe_dump(python),
        "requirements.txt": "".join(pins),
        "code.zip": _code(),
        served.FACTS: json.dumps(facts, indent=1),
    }.items():
        write_atomically(here / name, content)
    data = [(folder / "weights.safetensors", "data"), (here / served.FACTS, "data")]
    return [*data, *((here / name, None) for name in ("requirements.txt", "python_env.yaml", "code.zip", "MLmodel"))]


def _tensor(spec: Mapping[str, Any]) -> str:
    return json.dumps([{"type": "tensor", "tensor-spec": spec}])


def _code() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(CODE):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), (ROOT / name).read_bytes())
    return buffer.getvalue()
