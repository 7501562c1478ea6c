"""Speed of every segmenter's default at 64×64×4, batch 16: training with and without augmentation, and prediction."""

import statistics
import time
from collections.abc import Callable

import torch

import segmenters
from segmenters.augment import augment

BATCH, STEPS = 16, 15


def images_per_second(step: Callable[[], object]) -> float:
    """The median over STEPS calls, after three to warm up."""
    times = []
    for _ in range(STEPS + 3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return BATCH / statistics.median(times[3:])


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 4, 64, 64), torch.randint(4, (BATCH, 64, 64))
    print(f"augmentation alone: {images_per_second(lambda: augment(images, labels)):.0f} images/s")
    print("| segmenter | precision | training images/s | with augmentation | predicted images/s |")
    print("| --- | --- | --- | --- | --- |")
    for name in segmenters.names():
        for precision in ("fp32", "bf16"):
            model = segmenters.create(name, 4, 4, 64, precision=precision)
            plain = images_per_second(lambda model=model: model.train_step(images, labels, 0))
            augmented = images_per_second(lambda model=model: model.train_step(*augment(images, labels), 0))
            predicted = images_per_second(lambda model=model: model.predict(images))
            print(f"| {name} | {precision} | {plain:.0f} | {augmented:.0f} | {predicted:.0f} |", flush=True)


if __name__ == "__main__":
    main()
