"""What can be set: one class per stage. How a call is turned into these: see `benchmark.parsing`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.data.labels import CONVENTIONS
from benchmark.names import for_store
from benchmark.values import (
    Arm,
    Axis,
    Batch,
    File,
    FileOrNone,
    Folder,
    FolderOrNone,
    GeneratorName,
    Images,
    Labels,
    Layout,
    Listed,
    ListedPaths,
    ModelName,
    Number,
    PathText,
    PathTextOrNone,
    Seconds,
    Seed,
    SegmenterName,
    Share,
    ShareOrNone,
    Snapshots,
    Text,
    TextOrNone,
    TrainOn,
    Whole,
)

BATCH_PIXELS = 2**29  # most of a batch's slices together: 14 GiB of seven channels in float32
PHANTOM = "phantom"  # in place of a folder: the simulated cohort
AUTO = "auto"  # in place of a preset: by whose cohort it is
PHANTOM_VOXELS = 2**25  # most of a phantom's volume: a process holds a score of such arrays
SYNTHETIC = "synthetic set: a generator, or a folder; default: the generator in 'model'"


class Section(BaseModel):
    """Keys of one stage: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Common(Section):
    """How and where to run; nothing here changes a result, so nothing here is part of a fingerprint."""

    preset: Text = Field(
        AUTO,
        description="named preset, or a YAML file that lists only differences; auto: demo for the phantom cohort, none "
        "for a cohort of yours",
    )
    work_dir: Folder = Field(Path("work"), description="folder of slices, checkpoints and samples")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    workers: Whole = Field(0, ge=0, le=256, description="processes that read data; 0 takes every core [processes]")
    json_: bool = Field(False, alias="json", description="print one JSON line about the stage at the end")


class Prepare(Section):
    """NIfTI cohort → SliceSet."""

    data: PathText = Field(PHANTOM, description="folder of NIfTI subjects, or 'phantom' for the simulated cohort")
    layout: Layout = Field(
        "auto", description="how the cohort's files are named; or a YAML file of your own patterns (docs/cohorts.md)"
    )
    labels: Labels = Field(
        "auto",
        description=f"what the annotations' values mean: {', '.join(CONVENTIONS)}, dataset.json, or a mapping such as "
        "1:NCR,2:ED,3:ET,4:background; auto decides by all of them, or asks",
    )
    image_size: Whole = Field(64, ge=16, le=1024, multiple_of=8, description="slice height and width [px]")
    field_of_view: Number = Field(
        256,
        ge=64,
        le=512,
        description="height and width of what a slice shows; 192 leaves out empty margins [mm]",
    )
    split: FileOrNone = Field(None, description="the study's .mat file, or CSV (subject, split); else a seeded split")
    test_share: Number = Field(0.15, gt=0, lt=1, description="share of test subjects in a seeded split [0..1]")
    validation_share: Number = Field(
        0.1, gt=0, lt=1, description="share of subjects set aside for validation where the split names none [0..1]"
    )
    strict: bool = Field(False, description="fail on the first bad subject instead of setting it aside")
    seed: Seed = Field(0, description="seed of the phantom cohort and of the split")
    phantom_subjects: Whole = Field(64, ge=4, le=100_000, description="size of the phantom cohort [subjects]")
    phantom_grid: Annotated[tuple[Axis, Axis, Axis], Listed] = Field(
        (60, 60, 40), description="phantom voxels along x, y, z over 240 × 240 × 155 mm [voxels]"
    )

    @property
    def cohort(self) -> str:
        """What the cohort is called in tables."""
        return PHANTOM if self.data == PHANTOM else for_store(Path(self.data).expanduser().resolve().name)


class ImportSamples(Section):
    """A set that somebody sent, as PNG, NIfTI or arrays → synthetic SliceSet."""

    synthetic: FolderOrNone = Field(None, description="folder of the set: PNG slices, NIfTI volumes or arrays")
    set_labels: Labels = Field(
        "auto", description="what the values of the set's annotation mean: a convention or a mapping, as prepare.labels"
    )


class Extractor(Section):
    """The U-Net whose encoder measures fidelity: trained on the cohort's real slices, the same for every generator."""

    images: Images = Field(200_000, description="training budget [images seen]")
    batch_size: Batch = Field(32, description="training batch [images]")
    snapshots: Snapshots = Field(10, description="validations during training; the best weights are kept [count]")


class TrainGenerator(Section):
    """Slices of training subjects → generator."""

    model: GeneratorName = Field("stylegan3", description="generator")
    images: Images = Field(1_000_000, description="training budget [images seen]")
    batch_size: Batch = Field(16, description="training batch [images]")
    subjects: Whole | None = Field(
        None,
        ge=1,
        description="train on so many of the training patients, drawn with the seed; default: all [patients]",
    )
    annotation: Literal["nested", "distance", "onehot", "values"] = Field(
        "nested",
        description="how it draws the annotation: a plane for each nested region, signed distances to their borders, a "
        "plane for each class, or the study's grey values",
    )
    seed: Seed = Field(0, description="seed of weights, batches and noise; a table's first repeat has it, see repeats")
    snapshots: Snapshots = Field(
        10, description="sample grids and measurements during training; the best weights are kept [count]"
    )
    snapshot_spacing: Literal["even", "geometric"] = Field(
        "even", description="even, or geometric: each √2 times as late as the one before, the last at the end"
    )
    stop_when_copied: bool = Field(
        False,
        description="stop at a snapshot that copies more training slices than chance gives (one-sided exact test, 5 % "
        "over all snapshots), and keep the best of those before it",
    )
    snapshot_samples: Whole = Field(
        1000, ge=2, le=10**6, description="samples at a snapshot, of which everything there is measured [slices]"
    )
    judge_images: Images = Field(
        8000, description="budget of the U-Net that is trained on them to judge the snapshot [images seen]"
    )
    keep_snapshots: bool = Field(
        False, description="keep every snapshot's weights and samples, not the best weights alone"
    )
    canaries: Whole = Field(
        0,
        ge=0,
        le=10_000,
        description="so many training patients are shown 16 times, as many 4 times as often, for attacks to find",
    )
    checkpoint_seconds: Seconds = Field(60, description="least time between resume checkpoints [s]")


class Sample(Section):
    """Generator → synthetic SliceSet."""

    samples: Whole = Field(10_000, ge=1, le=10**7, description="synthetic slices to make [slices]")
    ensemble: Whole = Field(
        1, ge=1, le=100, description="generators to mix, of seeds seed, seed + 1, …; sample i is of number i mod N"
    )
    seed: Seed = Field(0, description="sample i is drawn from this seed and i alone; a table's first repeat has it")


class TrainSegmenter(Section):
    """Real and / or synthetic slices → segmenter."""

    segmenter: SegmenterName = Field("unet", description="segmenter")
    train_on: TrainOn = Field(
        "real", description="real, synthetic, both, or pretrain: synthetic for the first half of the budget, then real"
    )
    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    real_subjects: Share = Field(1.0, description="share of the real training subjects that are used [0..1]")
    synthetic_share: Share = Field(1.0, description="share of the synthetic set that is used [0..1]")
    augment: bool = Field(True, description="augment training batches")
    images: Images = Field(1_000_000, description="training budget [images seen]")
    batch_size: Batch = Field(32, description="training batch [images]")
    seed: Seed = Field(0, description="seed of weights, batches and augmentation")
    snapshots: Snapshots = Field(10, description="validations during training; the best weights are kept [count]")
    patience: Whole = Field(
        0, ge=0, le=10_000, description="stop after so many validations without a better one; 0: never [count]"
    )
    checkpoint_seconds: Seconds = Field(60, description="least time between resume checkpoints [s]")


class Evaluate(Section):
    """Segmenter → scores of held-out test subjects."""

    snapshot: Literal["best", "last"] = Field(
        "best",
        description="whose scores: best, of most Dice on annotated validation patients; or last, which none of them "
        "chose, of a segmenter that was trained on synthetic images alone",
    )


class Audit(Section):
    """Synthetic set → was anybody copied?"""

    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    memory_gib: Number = Field(1.0, gt=0, le=4096, description="memory for the exhaustive search [GiB]")
    seed: Seed = Field(0, description="seed of the planted controls and resampling")


class Fidelity(Section):
    """Synthetic set → how like the real images, how varied, how well its annotations fit."""

    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    samples: Whole = Field(
        1000, ge=2, le=10_000, description="most slices of a draw, each of another patient; of 100 draws [slices]"
    )
    seed: Seed = Field(0, description="seed of what is drawn")


class Attack(Section):
    """Synthetic set → who tells from it, or from the generator, whom it was trained on?"""

    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    slices: Whole = Field(24, ge=2, le=10_000, description="most slices of a patient, evenly spaced [slices]")
    memory_gib: Number = Field(1.0, gt=0, le=4096, description="memory for the searches [GiB]")
    seed: Seed = Field(0, description="seed of the random halves and of the noise that images are denoised from")


class Select(Section):
    """Synthetic set, its audit and its attack → what a filter leaves of it."""

    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    keep: Literal["safe", "uncopied", "all"] = Field(
        "safe",
        description="safe: without slices counted as copied at τ99, and without those nearest to patients whom an "
        "attack on membership singles out; uncopied: without the former alone; all",
    )


class Release(Section):
    """Synthetic set → a package that may leave the house, if it keeps its limits."""

    synthetic: PathTextOrNone = Field(None, description=SYNTHETIC)
    licence: FileOrNone = Field(None, description="text file of the licence that the owner gives the package")
    answers: FileOrNone = Field(
        None, description="YAML file of what only the owner knows; the package's README lists its keys"
    )
    format: Literal["png", "nifti", "arrays"] = Field(
        "png", description="8-bit PNG or 2-D NIfTI, a folder for each modality and SEG; or arrays, a SliceSet"
    )
    weights: bool = Field(False, description="put the generator's weights into it, too, and how to sample from them")
    measure_use: bool = Field(
        True,
        description="train `repeats` segmenters each on real slices and on what is to leave alone: the card says how "
        "much Dice is kept",
    )
    force: bool = Field(False, description="make it although a limit is not kept, and say so on every page of it")
    most_copied: ShareOrNone = Field(
        None,
        description="limit: most slices that count as copied, at τ95 and at τ99; default: what 1 in 20 sets of this "
        "size exceeds though they copy nobody [0..1]",
    )
    most_auc: ShareOrNone = Field(
        None,
        description="limit: most that an attack may reach at the upper end of its AUC's 95 % interval, as what cannot "
        "be ruled out counts; an attack that finds something (Holm's p at most 0.05) fails with or without [0..1]",
    )
    most_removed: Share = Field(
        0.1, description="limit: most of the set that the filter may leave out; more is a generator that copies [0..1]"
    )
    least_found: Share = Field(
        0.8, description="limit: least of the exact, mirrored and blurred planted copies that the audit finds [0..1]"
    )
    least_patients: Whole = Field(
        10, ge=0, le=10**6, description="limit: least held-out patients for an audit that can see [patients]"
    )


class Analyze(Section):
    """All scores and audits → ratios, intervals, tests. Lists, comma-separated, span the table's cells."""

    data: Annotated[tuple[PathText, ...], ListedPaths] = Field(
        (), description="cohorts in the table: folders of NIfTI subjects, or 'phantom'; default: prepare.data"
    )
    split: Annotated[tuple[File, ...], ListedPaths] = Field(
        (), description="each cohort's split file, in the order of 'data'; default: prepare.split for all"
    )
    model: Annotated[tuple[GeneratorName, ...], Listed] = Field(
        ("stylegan3", "diffusion"), description="generators in the table"
    )
    synthetic: Annotated[tuple[PathText, ...], ListedPaths] = Field((), description="more sets in the table: folders")
    segmenter: Annotated[tuple[SegmenterName, ...], Listed] = Field(("unet",), description="segmenters in the table")
    train_on: Annotated[tuple[Arm, ...], Listed] = Field(
        ("real", "synthetic", "both"),
        description="arms in the table; real is the reference of all. synthetic_last: the segmenter's last snapshot in "
        "synthetic's training, which no annotated real patient chose",
    )
    augment: Annotated[tuple[bool, ...], Listed] = Field((True,), description="augmentation settings in the table")
    real_subjects: Annotated[tuple[Share, ...], Listed] = Field(
        (1.0,), description="shares of the real training subjects, for Dice against amount of data [0..1]"
    )
    synthetic_share: Annotated[tuple[Share, ...], Listed] = Field(
        (1.0,), description="shares of the synthetic sets, for Dice against amount of data [0..1]"
    )
    repeats: Whole = Field(
        3, ge=1, le=1000, description="whole trainings per cell: segmenters of seeds seed, seed + 1, … [count]"
    )
    own_generators: bool = Field(
        True,
        description="each repeat trains its own generators, of seeds train_generator.seed, + 1, …, and samples its own "
        "sets; false: all share the first, and no interval knows how much generators differ",
    )
    seed: Seed = Field(0, description="first seed of the repeats' segmenters, and seed of the permutation test")
    replicates: Whole = Field(10_000, ge=100, le=10**6, description="draws of the permutation test of ranks [count]")


class Report(Section):
    """Analysis → pages, tables, figures."""

    title: Text = Field("Can synthetic images stand in?", description="title of the report")
    out: Folder = Field(Path("reports/out"), description="folder that the newest report is copied to")


class Benchmark(Section):
    """The whole table: every stage for every cell, then the report."""

    dry_run: bool = Field(False, description="only print the cells, what is done, what is left, and how long it takes")
    executor: Literal["serial", "processes", "ray"] = Field(
        "serial",
        description="one stage run after another; in processes of this machine, one for each core (on a GPU one after "
        "another); or on a Ray cluster",
    )
    address: Text = Field(
        "auto", description="Ray cluster: HOST:PORT; auto: the one on this machine; local: start one for this call"
    )
    cpus_per_cell: Whole = Field(
        0,
        ge=0,
        le=1024,
        description="cores, and torch threads, of a stage run; 0: one with processes, as many as here with ray [cores]",
    )
    gpus_per_cell: float | None = Field(
        None, ge=0, le=1, description="with ray: GPU share of a stage run; default: 1 where the cluster has GPUs [GPUs]"
    )


class Tune(Section):
    """Settings of a generator or a segmenter → the best ones by validation subjects, as a preset."""

    model: ModelName = Field("stylegan2", description="generator or segmenter")
    trials: Whole = Field(20, ge=1, le=100_000, description="trials of the study, over all its workers [trials]")
    objective: Literal["dice", "fidelity"] = Field(
        "dice",
        description="a generator's: most Dice of the judge of its snapshots, which also prunes, or least kernel "
        "distance; a segmenter's is Dice",
    )
    prune: bool = Field(True, description="give up trials that lag behind at a snapshot (successive halving)")
    study: TextOrNone = Field(None, description="name of the study; default: made of model, objective and settings")
    storage: TextOrNone = Field(None, description="URL of Optuna's database; default: SQLite in work_dir")
    seed: Seed = Field(0, description="seed of the search")


class Memorization(Section):
    """Generators trained on few patients and on more → when each begins to copy, as a page."""

    model: Annotated[tuple[GeneratorName, ...], Listed] = Field(
        ("stylegan2", "diffusion"), description="generators that are compared"
    )
    subjects: Annotated[tuple[Annotated[Whole, Field(ge=2)], ...], Listed] = Field(
        (8, 16, 32, 64, 128),
        min_length=1,
        description="training patients, fewest first; fewer lie within more [patients]",
    )
    repeats: Whole = Field(
        3, ge=1, le=100, description="whole trainings each, of seeds train_generator.seed, + 1, … [count]"
    )

    @field_validator("subjects")
    @classmethod
    def _ascending(cls, subjects: tuple[int, ...]) -> tuple[int, ...]:
        if list(subjects) != sorted(set(subjects)):
            raise ValueError("subjects must ascend, each number once")
        return subjects

    @field_validator("model")
    @classmethod
    def _distinct(cls, model: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(model)) < len(model):
            raise ValueError("model names a generator twice")
        return model


class Sync(Section):
    """What runs in work_dir could not deliver to a tracking server that was away → the server."""


class Config(BaseModel):
    """Everything that a stage and the stages it pulls can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    common: Common = Common()
    prepare: Prepare = Prepare()
    import_samples: ImportSamples = ImportSamples()
    extractor: Extractor = Extractor()
    train_generator: TrainGenerator = TrainGenerator()
    sample: Sample = Sample()
    train_segmenter: TrainSegmenter = TrainSegmenter()
    evaluate: Evaluate = Evaluate()
    audit: Audit = Audit()
    fidelity: Fidelity = Fidelity()
    attack: Attack = Attack()
    select: Select = Select()
    release: Release = Release()
    analyze: Analyze = Analyze()
    report: Report = Report()
    benchmark: Benchmark = Benchmark()
    tune: Tune = Tune()
    memorization: Memorization = Memorization()
    sync: Sync = Sync()
    models: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _fits_into_memory(self) -> "Config":
        size, (x, y, z) = self.prepare.image_size, self.prepare.phantom_grid
        for section in ("extractor", "train_generator", "train_segmenter"):
            batch = getattr(self, section).batch_size
            if batch * size * size > BATCH_PIXELS:
                raise ValueError(
                    f"{section}.batch_size: {batch} slices of {size} × {size} px are more than memory holds; "
                    f"at this size take {BATCH_PIXELS // size**2} at most"
                )
        if x * y * z > PHANTOM_VOXELS:
            raise ValueError(f"prepare.phantom_grid: {x} × {y} × {z} voxels are more than {PHANTOM_VOXELS:,}")
        return self

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """A copy with dotted keys ('train_generator.model') replaced; values are already valid."""
        sections: dict[str, dict[str, Any]] = {}
        for dotted, value in values.items():
            section, key = dotted.split(".", 1)
            sections.setdefault(section, {})[key] = value
        return self.model_copy(
            update={name: getattr(self, name).model_copy(update=changed) for name, changed in sections.items()}
        )

    def of_repeat(self, repeat: int) -> "Config":
        """A copy with the seeds of the table's repeat, counted from 0: a whole training, generators included.

        No generator serves two repeats unless all share the first: ensembles take as many seeds each as they mix. The
        noise of samples differs, too, for diffusion models of other seeds make much the same image of the same noise.
        """
        own = repeat if self.analyze.own_generators else 0
        return self.replace(
            {
                "train_segmenter.seed": self.analyze.seed + repeat,
                "train_generator.seed": self.train_generator.seed + own * self.sample.ensemble,
                "sample.seed": self.sample.seed + own,
            }
        )


class Need(NamedTuple):
    """A stage that another one needs, and with which configuration."""

    stage: str
    config: Config
