"""Slices of training subjects → a generator's weights."""

import torch

import generators
from benchmark import training
from benchmark.config import Config, resolve_model
from benchmark.data.slices import SliceSet, from_network, to_network
from benchmark.stages.pictures import save_sheet
from benchmark.tracking import StageRun
from generators.base import Generator

SCHEMA = 1
GRID_SEEDS = range(8)  # the same latents at every snapshot


def settings(config: Config) -> dict:
    name = config.train_generator.model
    own = config.train_generator.model_dump(mode="json", exclude={"snapshots", "checkpoint_seconds"})
    return {**own, name: resolve_model(config, name)}


def needs(config: Config) -> dict:
    return {"prepare": ("prepare", config)}


def tags(config: Config) -> dict:
    return {"model": config.train_generator.model, "cohort": config.prepare.data, "seed": config.train_generator.seed}


def run(config: Config, inputs: dict, folder, tracked: StageRun) -> dict:
    own = config.train_generator
    device = training.pick_device(config.common.device)
    slices = SliceSet.open(inputs["prepare"].path)
    rows = slices.rows("train")
    torch.manual_seed(training.mix(own.seed, 0))
    model = create(config, slices).to(device)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rows[training.shuffled_rows(len(rows), seen, own.batch_size, own.seed)]
        return torch.from_numpy(slices.images[chosen]), torch.from_numpy(slices.labels[chosen])

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor]:
        images, labels = batch
        return (to_network(images.to(device), labels.to(device)),)

    def snapshot(seen: int) -> dict[str, float]:
        images, labels, off_code = from_network(model.sample(GRID_SEEDS).cpu())
        sheet = save_sheet(images.numpy(), labels.numpy(), folder / "snapshots" / f"{seen:09d}.png")
        tracked.log_artifact(sheet, "snapshots")
        return {"off_code_share": float(off_code.mean())}

    budget = training.Budget(own.images, own.batch_size, own.seed, own.snapshots, own.checkpoint_seconds)
    progress = training.train(
        model, read, to_batch, budget, folder, name=own.model, on_metrics=tracked.log_metrics, on_snapshot=snapshot
    )
    weights = folder / "weights.safetensors"
    training.save_weights(model.weights(), weights)
    tracked.log_artifact(weights, "checkpoints")
    return {
        **progress.cost(device),
        "training_slices": len(rows),
        "parameters": sum(p.numel() for network in model.networks.values() for p in network.parameters()),
    }


def create(config: Config, slices: SliceSet) -> Generator:
    """The configured generator, freshly initialized, for slices of this size: four modalities and the annotation."""
    name = config.train_generator.model
    return generators.create(name, 5, slices.meta["image_size"], **resolve_model(config, name))
