"""Speed of every segmenter's default at 64×64×4, batch 16: training with and without augmentation, and prediction.

All of them take turns, so whatever else the machine does in between slows them alike.
"""

import statistics
import time
from itertools import product

import torch

import segmenters
from segmenters.augment import augment

BATCH, WARM_UP, STEPS = 16, 3, 15


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 4, 64, 64), torch.randint(4, (BATCH, 64, 64))
    models = {
        (name, precision): segmenters.create(name, 4, 4, 64, precision=precision)
        for name, precision in product(segmenters.names(), ("fp32", "bf16"))
    }
    jobs = {
        "training": lambda model: model.train_step(images, labels, 0),
        "augmented": lambda model: model.train_step(*augment(images, labels), 0),
        "prediction": lambda model: model.predict(images),
    }
    seconds = {(model, job): [] for model, job in product(models, jobs)}
    for _ in range(WARM_UP + STEPS):
        for (model, job), times in seconds.items():
            start = time.perf_counter()
            jobs[job](models[model])
            times.append(time.perf_counter() - start)
    speed = {key: BATCH / statistics.median(times[WARM_UP:]) for key, times in seconds.items()}

    print("| segmenter | parameters | precision | training images/s | with augmentation | predicted images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (name, precision), model in models.items():
        parameters = sum(parameter.numel() for parameter in model.networks["segmenter"].parameters())
        numbers = " | ".join(f"{speed[(name, precision), job]:.0f}" for job in jobs)
        print(f"| {name} | {parameters:,} | {precision} | {numbers} |")


if __name__ == "__main__":
    main()
