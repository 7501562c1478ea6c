# syntax=docker/dockerfile:1
# On NVIDIA GPUs: docker build --tag stand-in:cuda .                                How to run it: docs/mlflow.md
# On processors:  docker build --tag stand-in --build-arg TORCH_INDEX=… .           the index of PyTorch's CPU wheels
FROM python:3.11-slim

ARG TORCH_INDEX=
RUN useradd --create-home --uid 1000 standin && mkdir /data && chown 1000:1000 /data

# What changes rarely comes first: the environment is built anew only when a pin changes. pip's usual torch brings CUDA's
# libraries along, gigabytes that a processor has no use for; PyTorch's site names the index of wheels without them.
WORKDIR /app
COPY requirements.lock .
# hadolint ignore=DL3013,DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "$TORCH_INDEX" ]; then \
        pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.lock)"; \
    fi \
    && pip install --requirement requirements.lock
COPY . .

# Results, and MLflow's store where no server is named, lie in /data and outlast the container.
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet
USER 1000
WORKDIR /data
ENTRYPOINT ["python", "-m", "benchmark"]
CMD ["--help"]
