import re
from functools import lru_cache
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pandas as pd
import pytest

from analysis import ranks, statistics
from analysis.fidelity import rank_correlations
from analysis.long_table import Scores
from analysis.set_tables import mean_values
from benchmark.report.cards import build_cards
from benchmark.report.page import CardLink, CohortFacts, Nearest, ReportInputs, build_report, duration
from tests import attacked

CLASSES, REGIONS = ("NCR", "ED", "ET"), ("NCR", "ED", "ET", "WT", "TC", "mean")
HOSTILE = "<script>alert('x')</script> & \"Müller\"_50%/../\\x $\\frac{$"


def long_table(
    generators: dict[str, float],
    subjects: int = 12,
    seeds: int = 3,
    segmenters: tuple[str, ...] = ("unet",),
    cohort: str = "phantom",
    arms: tuple[str, ...] = ("synthetic", "both"),
    shares: tuple[float, ...] = (1.0,),
) -> pd.DataFrame:
    """A plausible long table: patients differ, seeds differ, every generator keeps its own share of Dice, and less with
    a share of the data."""
    rng = np.random.default_rng(7)
    patient = rng.beta(5, 1.6, (subjects, 3))
    kept = {"synthetic": 0.0, "both": 0.8, "pretrain": 0.9}  # of the way to 1.02
    trained = [("none", "real", 1.0)]
    trained += [(name, arm, own + kept[arm] * (1.02 - own)) for name, own in generators.items() for arm in arms]
    cells = [
        (generator, arm, level * (real * made) ** 0.1, real, made)
        for generator, arm, level in trained
        for real, made in product(shares, shares)
        if (real == 1 or arm != "synthetic") and (made == 1 or arm != "real")
    ]
    rows = []
    for (generator, arm, kept, *amount), segmenter, augmentation, seed in product(
        cells, segmenters, ("on", "off"), range(seeds)
    ):
        level = kept * (1.0 if augmentation == "on" else 0.97) + rng.normal(0, 0.008)
        dice = np.clip(level * patient + rng.normal(0, 0.04, patient.shape), 0, 1)
        for subject in range(subjects):
            values = dict(zip(CLASSES, dice[subject], strict=True))
            values |= {"WT": dice[subject].max(), "TC": dice[subject, [0, 2]].mean(), "mean": dice[subject].mean()}
            for region, value in values.items():
                case = "mean" if region == "mean" else "one empty" if value == 0 else "present"
                cell = (cohort, generator, arm, segmenter, augmentation, seed, *amount)
                rows.append((*cell, f"case_{subject:03d}", region, "dice", value, case))
    columns = [*statistics.ARM, "seed", *statistics.AMOUNT, "subject", "region", "metric", "value", "case"]
    return pd.DataFrame(rows, columns=columns)


def audit(rng: np.random.Generator, share: float) -> tuple[dict, Nearest]:
    """A plausible audit.json and what is drawn of it."""
    null, synthetic = rng.normal(0.72, 0.05, 300), rng.normal(0.70, 0.06, 800)
    synthetic[: int(share * 800)] = rng.normal(0.93, 0.02, int(share * 800))
    tau95, tau99 = np.quantile(null, [0.95, 0.99])
    shares = {"tau95": float((synthetic > tau95).mean()), "tau99": float((synthetic > tau99).mean())}
    kinds = ("exact", "mirrored", "shifted 12 px", "blurred", "turned 10°", "tumour in another brain")
    found = {"n": 10, "memorized": {"tau95": 0.9, "tau99": 0.4}, "copied": {"tau95": 1.0, "tau99": 0.98}}
    nobody = {"tau95": 0.04, "tau99": 0.0}
    summary = {
        "n_synthetic": 800,
        "n_train": 1200,
        "n_train_subjects": 40,
        "n_null": 300,
        "n_null_subjects": 12,
        "tau95": float(tau95),
        "tau99": float(tau99),
        "memorized_share": shares,
        "memorized_interval": {name: [0.8 * value, 1.0] for name, value in shares.items()},
        "p_value": {"tau95": 0.03, "tau99": 0.0004},
        "leaked_patients": {"count": round(40 * share), "share": share, "count_by_chance": 5.2},
        "copied_share": {name: 0.5 * value for name, value in shares.items()},
        "copied_interval": {name: [0.4 * value, 1.0] for name, value in shares.items()},
        "copied_p_value": {"tau95": 0.2, "tau99": 0.04},
        "evidence": {"tau95": 2.1, "tau99": 3.4},
        "honest_share": {"tau95": 0.08, "tau99": 0.02},
        "honest_memorized_share": {"tau95": 0.11, "tau99": 0.04},
        "sharpness": 0.7,
        "searches": {"pose": round(20 * share), "half": 2},
        "copied_patients": {"count": round(20 * share), "share": round(20 * share) / 40, "count_by_chance": 5.2},
        "counts_above": {"0.90": 40, "0.95": 8, "0.99": 0},
        "c_t": -0.4,
        "authenticity": 0.81,
        "controls": dict.fromkeys(kinds, found)
        | {"blurred_strangers": {"n": 10, "memorized": {"tau95": 0.9, "tau99": 0.8}, "copied": nobody}}
        | {"held_out": {"n": 300, "memorized": {"tau95": 0.052, "tau99": 0.011}, "copied": nobody}},
        "warnings": ["the thresholds rest on 12 held-out subjects"],
    }
    closest = pd.DataFrame({
        "similarity": [0.97, 0.41, 0.94], "evidence": [41.2, 9.5, 7.25], "search": ["as is", "lesion", "pose"],
        "shift_y": [0, 2, 0], "shift_x": [0, -1, 0], "mirrored": [False, False, True],
        "lies_alike": [True, False, True],
    })  # fmt: skip
    pairs = phantom_slices(rng, 6)[0].reshape(3, 2, 4, 32, 32)
    return summary, Nearest(synthetic, null, pairs, closest)


def fidelity(rng: np.random.Generator, n: int = 320) -> dict:
    """A plausible fidelity.json, one number missing."""
    modalities = ("T1", "T1ce", "T2", "FLAIR")
    floor = {"frechet": None, "kernel": 0.0031, "precision": 0.71, "recall": 0.64, "density": 0.82, "coverage": 0.83}
    floor |= {f"ms_ssim_{modality}": 0.42 for modality in modalities}
    floor |= {"label_dice": 0.86, "label_dice_NCR": 0.81, "label_dice_ED": 0.88, "label_dice_ET": 0.89}
    worse = {key: None if value is None else float(value * rng.uniform(0.6, 0.9)) for key, value in floor.items()}
    return {
        "extractor": "encoder of a U-Net trained on real slices",
        "features": 256,
        "draws": 100,
        "per_draw": 8,
        "n": {"synthetic": n, "reference": 760, "floor": 150},
        "people": {"synthetic": n, "reference": 40, "floor": 8},
        "components": 1,
        "explained": 0.6,
        "ms_ssim_scales": 2,
        "values_sd": {"frechet": None, "kernel": 0.004},
        "floor_sd": {"frechet": None, "kernel": 0.001},
        "values": worse | {"kernel": float(rng.uniform(0.01, 0.05))},
        "floor": floor,
        "reasons": {"frechet": "the Fréchet distance of 1 feature needs at least 10 samples of each set; there are 8"},
    }


def curve(rng: np.random.Generator, seeds: int = 1) -> pd.DataFrame:
    """A plausible curve.csv of every training: fidelity improves, and so does memorization."""
    parts = []
    for seed in range(seeds):
        seen = np.linspace(0, 20_000, 7)[1:]
        part = pd.DataFrame({"seen": seen.astype(int), "kernel_distance": 0.2 * np.exp(-seen / 6000) + 0.01})
        part["kernel_distance"] += rng.normal(0, 0.003, 6)
        part["memorized_share"] = np.clip(0.02 + seen / 150_000 + rng.normal(0, 0.01, 6), 0, 1)
        part["copied_share"] = 0.4 * part["memorized_share"]
        part["judge_dice"], part["judge_dice_real"] = 0.6 - part["kernel_distance"], 0.7
        part["kept"] = part["judge_dice"] == part["judge_dice"].max()
        parts.append(part.assign(kernel_floor=0.004, off_code_share=0.01, seed=seed, samples=96))
    return pd.concat(parts, ignore_index=True)


def phantom_slices(rng: np.random.Generator, count: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses with a lesion inside: images uint8 [count, 4, size, size] and labels uint8 [count, size, size]."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    images, labels = np.zeros((count, 4, size, size)), np.zeros((count, size, size), np.uint8)
    for index in range(count):
        brain = (x / rng.uniform(0.6, 0.75)) ** 2 + (y / rng.uniform(0.75, 0.9)) ** 2 < 1
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        radius = np.hypot(x - cx, y - cy) / rng.uniform(0.25, 0.35)
        labels[index] = np.select([radius < 0.35, radius < 0.6, radius < 1], [1, 3, 2], 0) * brain
        for channel, lesion in enumerate(((0, -30, -20, -10), (0, -50, -10, 110), (0, 60, 90, 40), (0, 20, 110, 60))):
            tissue = 100 + 25 * np.sin(5 * x + channel) + np.take(lesion, labels[index])
            images[index, channel] = np.clip(brain * (tissue + rng.normal(0, 8, x.shape)), 0, 255)
    return images.astype(np.uint8), labels


def analysed(table: pd.DataFrame) -> dict[str, Scores | pd.DataFrame]:
    scores = Scores(table)
    return {
        "scores": scores,
        "ratios": statistics.ratios(scores),
        "tests": statistics.paired_tests(scores),
        "ranks": ranks.ranks(scores),
        "rank_tests": ranks.rank_tests(scores, permutations=500),
        "amounts": statistics.amounts(scores),
    }


@lru_cache
def two_generators() -> dict[str, pd.DataFrame]:
    return analysed(long_table({"stylegan3": 0.85, "diffusion": 0.92}))


def report_inputs(
    generators: tuple[str, ...] = ("stylegan3", "diffusion"),
    repeats: int = 1,
    share: float = 0.1,
    size: int = 32,
    pictures: bool = False,
    tables: dict[str, pd.DataFrame] | None = None,
    **changes,
) -> ReportInputs:
    rng = np.random.default_rng(1)
    seeds = [str(seed) for seed in range(repeats)]
    audits = {name: {seed: audit(rng, share * (1 + int(seed))) for seed in seeds} for name in generators}
    tables = two_generators() if tables is None else tables
    measured = {name: {seed: fidelity(rng) for seed in seeds} for name in generators}
    rows = [{"cohort": "phantom", "generator": name, **mean_values(found)} for name, found in measured.items()]
    costs = [
        (stage, name, 0, images, seconds, images / seconds, "cpu, 2 threads")
        for name in generators
        for stage, images, seconds in (("train_generator", 20_000, 410.0), ("sample", 800, 31.0))
    ]
    facts = {
        "title": "Phantom cohort, demo",
        "cohort": CohortFacts(
            "phantom",
            True,
            {"train": 40, "validation": 8, "test": 12},
            {"train": 1200, "validation": 230, "test": 355},
            1,
            size,
            256,
        ),
        "sets": list(generators),
        **tables,
        "fidelity": measured,
        "correlations": rank_correlations(pd.DataFrame(rows), tables["ratios"]) if rows else pd.DataFrame(),
        "attacks": {name: {seed: attacked.found(1.0, int(seed)) for seed in seeds} for name in generators},
        "curves": {name: curve(rng, repeats) for name in generators},
        "audits": {name: {seed: summary for seed, (summary, _) in each.items()} for name, each in audits.items()},
        "nearest": {name: each["0"][1] for name, each in audits.items() if pictures},
        "sample_images": {name: phantom_slices(rng, 6, size) for name in ("real", *generators) if pictures},
        "costs": pd.DataFrame(
            costs, columns=["stage", "model", "seed", "images", "seconds", "images_per_second", "device"]
        ),
        "missing": pd.DataFrame(columns=["cell", "reason"]),
        "versions": {"monai": "1.6.1", "torch": "2.13.0"},
        "hardware": {"cpu": "2 cores", "memory": "8 GiB"},
        "budgets": {"generator images": 20_000, "segmenter images": 8_000},
        "commit": "0123abc",
        "demo_notice": "budgets of minutes prove the thread from NIfTI to report, not the methods.",
    }
    return ReportInputs(**facts | changes)


class Page(HTMLParser):
    """What a browser would fetch, which elements there are, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.fetched, self.links, self.text = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.fetched += [attributes["src"]] if "src" in attributes else []
        self.fetched += [attributes["href"]] if tag == "link" else []
        self.links += [attributes["href"]] if tag == "a" else []

    def handle_data(self, data):
        if self.tags and self.tags[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def inputs():
    link = CardLink("cards/diffusion.html", "cards/diffusion.pdf", "Images: outside 2 of 9 limits.")
    return report_inputs(pictures=True, release_cards={"diffusion": link})


@pytest.fixture(scope="module")
def report(tmp_path_factory, inputs):
    out = tmp_path_factory.mktemp("report")
    (out / "cards").mkdir()
    for suffix in ("html", "pdf"):
        (out / "cards" / f"diffusion.{suffix}").touch()
    written = build_report(out, inputs)
    return out, written, Page((out / "index.html").read_text(encoding="utf-8"))


def test_the_page_fetches_nothing_and_runs_nothing(report):
    out, _, page = report
    assert page.fetched
    assert all(source.startswith("data:image/") for source in page.fetched)
    assert "script" not in page.tags
    html = (out / "index.html").read_text()
    assert "http" not in re.sub(r'data:[^"]*', "", html)  # neither an address nor a policy, which frames would obey


def test_links_lead_to_files_or_sections_that_exist(report):
    out, written, page = report
    html = (out / "index.html").read_text()
    assert {link[:1] for link in page.links} > {"#"}  # to both
    for link in page.links:
        assert f'id="{link[1:]}"' in html if link.startswith("#") else (out / link).is_file()
    for path in (*written["tables"], *written["figures"], written["index"]):
        assert (out / path).stat().st_size > 0
    names = {path.rsplit(".", 1)[0] for path in written["tables"]} - {"tables/scores"}
    assert {f"{name}.{suffix}" for name in names for suffix in ("md", "tex", "csv")} < set(written["tables"])


def test_the_reader_is_told_what_this_is_and_what_it_is_not(report):
    _, _, page = report
    assert "Passing this audit is not proof of anonymity." in page.words
    assert page.words.count("Simulated phantom cohort:") == 1
    assert "Demonstration: budgets of minutes prove the thread" in page.words
    assert "Only 12 test subjects: only large differences can be told from chance." in page.words
    assert "Interval holds the truth [%]" in page.words
    assert "n = 12 subjects × 3 seeds" in page.words
    assert "n = 800 synthetic, 300 held-out slices" in page.words
    drawn = "n = draws of 8 slices, each of another patient, from 320 synthetic slices, 8 held-out and 40 training"
    assert drawn in page.words
    assert "encoder of a U-Net trained on real slices, 256 features" in page.words
    assert "commit 0123abc" in page.words


def test_the_verdict_stands_before_tables_and_figures(report):
    _, _, page = report
    order = [page.words.index(text) for text in ("Patients at risk", "Dice on test subjects", "Definitions")]
    assert order == sorted(order)


def test_patients_at_risk_by_chance_are_an_expectation_not_a_bound(report):
    _, _, page = report
    assert "about 5.2 by chance) may be recognised" in page.words
    assert "up to 5.2 by chance" not in page.words


def test_a_card_for_whoever_has_to_sign_is_led_to_with_its_verdict(report):
    _, _, page = report
    assert {"cards/diffusion.html", "cards/diffusion.pdf"} < set(page.links)
    assert page.words.count("Images: outside 2 of 9 limits. Card for whoever has to sign") == 1


def test_attacks_stand_beside_their_control_in_table_figure_and_cards(report, inputs):
    out, written, page = report
    auc = inputs.attacks["diffusion"]["0"]["attacks"]["ratio"]["auc"]
    assert f"Training patients told from others. By the set alone : AUC {auc:.2f} [" in page.words
    assert "Membership by the set, beside other people: control 0.50 [" in page.words
    assert {"figures/attacks_auc.svg", "tables/attacks.csv"} <= {*written["figures"], *written["tables"]}
    assert (out / "figures" / "attacks_auc.svg").stat().st_size > 0


def test_the_cards_print_the_ratio_of_the_means_and_the_worst_setting_decides(report, inputs):
    _, _, page = report
    table = inputs.scores.table
    dice = table[table["region"] == "mean"].groupby(["generator", "arm", "augmentation"])["value"].mean()
    for name, printed in (("stylegan3", "StyleGAN 3"), ("diffusion", "Diffusion")):
        ratio = [
            dice[name, "synthetic", augmentation] / dice["none", "real", augmentation] for augmentation in ("off", "on")
        ]
        found = re.search(
            rf"{printed} Synthetic images alone keep (\d+)–?(\d*).% of real-only Dice; ([^.]+\.\d+)", page.words
        )
        assert [float(found[1]), float(found[2] or found[1])] == pytest.approx(sorted(100 * r for r in ratio), abs=0.51)
        row = inputs.ratios.query("generator == @name and arm == 'synthetic' and region == 'mean'")
        passed = max(margin for margin in (0.8, 0.9, 0.95) if row[f"passes_{margin:.2f}"].all())
        assert found[3] == f"non-inferior at {passed:.2f}"
        for augmentation, value in zip(("off", "on"), ratio, strict=True):
            assert f"Synthetic only, U-Net, augmentation {augmentation} {value:.2f} " in page.words


def test_the_cards_lead_with_who_was_copied_and_stand_fidelity_beside_its_floor(report, inputs):
    _, _, page = report
    for name in inputs.sets:
        audit, measured = inputs.audits[name]["0"], inputs.fidelity[name]["0"]
        copied, memorized = (100 * audit[key]["tau95"] for key in ("copied_share", "memorized_share"))
        risk = page.words.index(f"{audit['copied_patients']['count']} of 40 training subjects (5.0")
        assert risk < page.words.index(f"Copied share: {copied:.1f} % of slices (without copying 5")
        assert f"for whichever reason: {memorized:.1f} % above τ95 (without copying 5" in page.words
        assert (
            f"kernel distance {measured['values']['kernel']:.3g}, lower is closer (held-out real: 0.0031)" in page.words
        )
        varied = f"{100 * measured['values']['coverage']:.1f} % of real variety covered"
        assert f"Varied : {varied} (held-out real: 83.0 %)" in page.words


def test_with_few_test_patients_a_card_tells_variety_by_pairs():
    measured = fidelity(np.random.default_rng(0))
    measured["values"] |= {"coverage": None, "ms_ssim_FLAIR": 0.314}
    measured["floor"] |= {"coverage": None, "ms_ssim_FLAIR": 0.42}
    (card,) = build_cards(
        ["mine"],
        two_generators()["ratios"],
        {},
        {"mine": {"0": measured}},
        {},
        pd.DataFrame(columns=["model", "stage"]),
    )
    told = dict(card["fidelity"]["lines"])["Varied"]
    assert told == "MS-SSIM of two samples 0.31, lower is more varied (held-out real: 0.42)"


@pytest.mark.parametrize(("psi", "told"), [(0.7, True), (1.0, False)])
def test_another_truncation_is_said_beside_every_row(psi, told, tmp_path, monkeypatch):
    inputs = report_inputs(truncation={"diffusion": 1.0, "stylegan3": psi})
    monkeypatch.setattr("benchmark.report.page._figures", lambda inputs: ())
    build_report(tmp_path, inputs)
    note = "Sampled with truncation: StyleGAN 3 at ψ = 0.7; all others at 1."
    for path in sorted((tmp_path / "tables").glob("*.md")):
        text = path.read_text()
        named = re.search(r"\| StyleGAN 3\W", text) is not None
        assert (note in text) == (named and told), path.name
        assert ("StyleGAN 3§" in text or "StyleGAN 3 §" in text or "StyleGAN 3‡§" in text) == (named and told), (
            path.name
        )
    assert (note in (tmp_path / "index.html").read_text()) == told


def test_amounts_are_drawn_where_there_is_more_than_one(report, tmp_path):
    _, written, _ = report
    assert not [path for path in written["figures"] + written["tables"] if "amount" in path]
    tables = analysed(long_table({"diffusion": 0.9}, subjects=6, seeds=2, shares=(0.5, 1.0)))
    written = build_report(tmp_path, report_inputs(("diffusion",), tables=tables))
    amounts = [path for path in written["figures"] + written["tables"] if "amount" in path]
    names = [f"figures/amount_{share}_phantom_unet.svg" for share in statistics.AMOUNT]
    assert set(amounts) == {*names, *(f"tables/amounts_phantom_unet.{kind}" for kind in ("md", "tex", "csv"))}
    assert "Dice against the share of real training subjects" in Page((tmp_path / "index.html").read_text()).words


def test_a_single_training_subject_has_no_copied_share_and_the_card_says_so(tmp_path):
    inputs = report_inputs(("diffusion",))
    none = dict.fromkeys(("tau95", "tau99"))
    unknown = dict.fromkeys(("copied_share", "copied_interval", "copied_p_value", "evidence"), none)
    patients = dict.fromkeys(("count", "share", "count_by_chance"))
    changed = inputs.audits["diffusion"]["0"] | unknown | {"copied_patients": patients}
    build_report(tmp_path, ReportInputs(**{**inputs.__dict__, "audits": {"diffusion": {"0": changed}}}))
    assert "there is one training subject" in Page((tmp_path / "index.html").read_text()).words
    table = (tmp_path / "tables" / "memorization.md").read_text()
    assert "| Evidence of a copy at τ95 / τ99 | not measured |" in table
    assert table.count("not measured") == 9  # patients and by chance, share, interval and p at two levels, evidence


def test_a_set_that_knows_test_patients_says_so_below_its_verdict(tmp_path):
    inputs = report_inputs(("diffusion",))
    for doubt, times in (("40 % of its slices count as copies of test patients", 1), (None, 0)):
        changed = inputs.audits["diffusion"]["0"] | {"test_patients": {"warning": doubt}}
        build_report(tmp_path, ReportInputs(**{**inputs.__dict__, "audits": {"diffusion": {"0": changed}}}))
        words = Page((tmp_path / "index.html").read_text()).words
        assert words.count("Too good to trust? 40 % of its slices count as copies of test patients.") == times
        assert ("Too good to trust?" in words) == bool(times)


def test_a_patient_cohort_is_not_called_simulated(tmp_path):
    cohort = CohortFacts("clinic", False, {"test": 12}, {"test": 300}, 0, 64, 256)
    build_report(tmp_path, report_inputs(cohort=cohort, demo_notice=None))
    html = (tmp_path / "index.html").read_text()
    assert "imulated phantom" not in html
    assert "Demonstration" not in html


def test_names_from_files_are_escaped_everywhere(tmp_path):
    scores = long_table({HOSTILE: 0.9}, subjects=8, cohort=HOSTILE).assign(
        subject=lambda table: HOSTILE + table["subject"]
    )
    scores = scores.drop(scores.index[(scores["arm"] == "both") & (scores["seed"] == 1)][:7])  # named in the reasons
    cohort = CohortFacts(HOSTILE, False, {"test": 8}, {"test": 200}, 0, 64, 256)
    missing = pd.DataFrame({"cell": [HOSTILE], "reason": [HOSTILE]})
    written = build_report(
        tmp_path,
        report_inputs(
            (HOSTILE,),
            tables=analysed(scores),
            pictures=True,
            cohort=cohort,
            missing=missing,
            title=HOSTILE,
            warnings=[HOSTILE],
        ),
    )
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert HOSTILE in Page(html).words
    assert all(re.fullmatch(r"(tables|figures)/[\w-]+\.\w+", path) for path in written["tables"] + written["figures"])
    for path in written["tables"]:
        text = (tmp_path / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            assert "<script" not in text
        if path.endswith(".tex"):
            assert not re.search(r"(?<!\\)[%_&](?! )", text.replace(" & ", ""))


def test_repeats_are_pooled_and_their_details_are_in_the_csv(tmp_path):
    inputs = report_inputs(repeats=3, pictures=True)
    build_report(tmp_path, inputs)
    words = Page((tmp_path / "index.html").read_text()).words
    assert "n = 3 × 800 synthetic, 300 held-out slices" in words
    for name in inputs.sets:
        counts = [audit["copied_patients"]["count"] for audit in inputs.audits[name].values()]
        assert f"{np.mean(counts):g} of 40 training subjects" in words
        assert f"{min(counts)} to {max(counts)} from set to set" in words
        stored = pd.read_csv(tmp_path / "tables" / "memorization.csv").query("generator == @name")
        assert stored["seed"].tolist() == [0, 1, 2]
        assert stored["copied_patients.count"].tolist() == counts
    assert "Diffusion below, of the first of its 3 sets." in words
    assert "3 trainings" in (tmp_path / "figures" / "training_diffusion.svg").read_text()
    assert "‡" not in words.replace("the row is marked ‡", "")


def test_a_shared_generator_is_said_beside_verdict_table_and_figure(tmp_path):
    table = two_generators()["scores"].table
    own = table["seed"].where(table["generator"] == "stylegan3", 0).where(table["arm"] != "real")
    build_report(tmp_path, report_inputs(tables=analysed(table.assign(generator_seed=own.astype("Int64")))))
    words = Page((tmp_path / "index.html").read_text()).words
    note = "‡ Diffusion: all seeds share one training of the generator."
    card = words.index("Diffusion Synthetic images alone keep")
    assert card < words.index(note) < words.index("Patients at risk", card)
    assert words.count(note) == 4  # the card, Dice, ratios, ratios by region
    assert "‡ StyleGAN 3" not in words
    assert "the generator's own variance is left out" in (tmp_path / "figures" / "forest_phantom_unet.svg").read_text()


def test_missing_cells_are_shown_with_their_reason(tmp_path):
    scores = two_generators()["scores"].table
    gone = (scores["generator"] == "diffusion") & (scores["arm"] == "both") & (scores["augmentation"] == "off")
    hole = (scores["generator"] == "stylegan3") & (scores["subject"] == "case_004") & (scores["seed"] == 2)
    missing = pd.DataFrame({"cell": ["diffusion, both, off"], "reason": ["the loss was not finite at step 120"]})
    build_report(tmp_path, report_inputs(tables=analysed(scores[~gone & ~hole]), missing=missing))
    words = Page((tmp_path / "index.html").read_text()).words
    assert "the loss was not finite at step 120" in words
    assert "1 of 36 seed × subject cells are missing, for example seed 2, subject case_004" in words
    study = (tmp_path / "tables" / "dice_phantom_unet.md").read_text()
    assert "| Diffusion | yes | off | 0 | missing | missing | missing | missing |" in study
    assert "| StyleGAN 3 | no | on | 3 | incomplete |" in study


def test_a_report_without_audit_fidelity_costs_or_ranks_says_so(tmp_path):
    inputs = report_inputs(audits={}, fidelity={}, attacks={}, correlations=pd.DataFrame(), curves={})
    empty = inputs.costs.iloc[:0]
    build_report(tmp_path, ReportInputs(**{**inputs.__dict__, "costs": empty, "ranks": inputs.ranks.iloc[:0]}))
    words = Page((tmp_path / "index.html").read_text()).words
    for text in ("Not audited.", "Not trained here.", "No synthetic set was audited.", "Not measured."):
        assert text in words
    assert "say why" not in words


def test_a_set_for_which_everything_failed_has_a_card_that_leads_to_the_reasons(tmp_path):
    missing = pd.DataFrame({"cell": ["audit mine", "fidelity mine"], "reason": ["out of memory", "no brain"]})
    build_report(tmp_path, report_inputs(("diffusion",), sets=["diffusion", "mine"], missing=missing))
    page = Page((tmp_path / "index.html").read_text())
    card = page.words.index("mine What synthetic images alone keep was not measured.")
    assert page.words[card:].count("Missing cells say why.") == 3
    assert "#missing" in page.links
    assert page.words.index("no brain") < page.words.index("Dice kept, relative to real-only training")


def test_a_single_training_and_subject_or_no_synthetic_arm_at_all_still_make_a_report(tmp_path):
    build_report(tmp_path / "one", report_inputs(("diffusion",), tables=analysed(long_table({"diffusion": 0.9}, 1, 1))))
    words = Page((tmp_path / "one" / "index.html").read_text()).words
    assert re.search(r"of real-only Dice; no verdict at any margin: not known with one training\.", words)
    assert "No interval, no verdict at a margin, no star: not known with one training." in words
    assert "n = 1 subject × 1 seed" in words
    build_report(tmp_path / "none", report_inputs((), tables=analysed(long_table({}))))
    assert "None (real only)" in (tmp_path / "none" / "tables" / "dice_phantom_unet.md").read_text()


def test_the_same_inputs_give_the_same_bytes(report, inputs, tmp_path):
    build_report(tmp_path, inputs)
    assert (tmp_path / "index.html").read_bytes() == (report[0] / "index.html").read_bytes()


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (450, "7.5 min"), (11520, "3.2 h")])
def test_durations_are_printed_for_people(seconds, text):
    assert duration(seconds) == text
