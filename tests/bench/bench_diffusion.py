"""Speed of the default diffusion model at 64×64×5, batch 16: training, and sampling with the default solver."""

import statistics
import time

import torch

import generators

BATCH, STEPS = 16, 5


def main() -> None:
    torch.set_num_threads(2)
    print("| precision | training images/s | sampled images/s | network evaluations/s (images) |")
    print("| --- | --- | --- | --- |")
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = generators.create("diffusion", 5, 64, precision=precision)
        images = torch.rand(BATCH, 5, 64, 64) * 2 - 1
        training = []
        for step in range(STEPS + 1):  # the first is warm-up
            start = time.perf_counter()
            model.train_step(images, BATCH * step)
            training.append(BATCH / (time.perf_counter() - start))
        start = time.perf_counter()
        model.sample(range(BATCH))
        sampling = BATCH / (time.perf_counter() - start)
        evaluations = sampling * model.config.sampling_steps
        print(
            f"| {precision} | {statistics.median(training[1:]):.1f} | {sampling:.2f} | {evaluations:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
