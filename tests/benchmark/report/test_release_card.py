"""The card on its page and on paper: the same words, one sheet, nobody named."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from pypdf import PdfReader

from analysis.limits import Limits, Verdict, judge_images, judge_weights
from benchmark.report.page import CohortFacts
from benchmark.report.release_card import CardInputs, build_release_card, release_card, worst_patient
from benchmark.stages.report import worst_verdicts
from tests import attacked

COHORT = CohortFacts("clinic", False, {"train": 30, "validation": 4, "test": 12}, {"train": 9, "test": 5}, 0, 16, 256)
NAMES = ("Müller_1963", "Meier_1971")


def audit(copied=0.02, p=0.4):
    kinds = ("exact", "mirrored", "blurred", "turned 10°", "held_out", "blurred_strangers")
    return {
        "copied_share": {"tau95": 0.05, "tau99": copied},
        "copied_interval": {"tau95": [0.0, 0.1], "tau99": [0.01, 0.05]},
        "copied_p_value": {"tau95": p, "tau99": p},
        "honest_share": {"tau95": 0.08, "tau99": 0.03},
        "controls": {kind: {"copied": {"tau95": 1.0, "tau99": 0.9}} for kind in kinds},
        "n_synthetic": 800,
        "n_null": 300,
        "n_train_subjects": 30,
        "n_null_subjects": 12,
    }


def audited(folder, evidence, subjects, null=(1.0, 2.0, 3.0), tau99=2.5):
    """A folder as the stage audit leaves it; the pair of row i is filled with i + 1 and, real, 101 + i."""
    folder.mkdir(parents=True)
    slices = pd.DataFrame({"row": range(len(evidence)), "evidence": evidence, "copied_subject": subjects})
    slices.to_csv(folder / "nearest.csv", index=False)
    pd.DataFrame({"evidence": null}).to_csv(folder / "null.csv", index=False)
    (folder / "audit.json").write_text(json.dumps({"evidence": {"tau99": tau99}}))
    rows = np.argsort(evidence)[::-1][:2]
    images = np.stack([np.stack([np.full((4, 16, 16), row + value) for value in (1, 101)]) for row in rows])
    np.savez(folder / "pairs.npz", images=images.astype(np.uint8), row=rows)
    return folder


@pytest.fixture
def inputs(tmp_path):
    found = attacked.found(0.0, canaries=3)
    worst = worst_patient([audited(tmp_path / "audit", [2.0, 9.0, 2.7, 4.0], [*NAMES, *NAMES])], pictured=True)
    return CardInputs("diffusion", COHORT, [audit()], [found], worst, limits=limits(audit(), found), weights=True)


def limits(audit, attack):
    return [*judge_images(audit, attack, attack, 0.0, Limits()), *judge_weights(audit, attack, Limits())]


class Texts(HTMLParser):
    """What a reader of the page sees, without white space: lines break elsewhere on paper."""

    def __init__(self, html):
        super().__init__()
        self.inside, self.text = "", ""
        self.feed(html)
        self.text = squeezed(self.text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag

    def handle_data(self, data):
        self.text += data * (self.inside not in ("style", "title"))


def squeezed(text):
    return re.sub(r"\s+", "", text)


def both(folder, inputs):
    page, paper = build_release_card(folder, inputs)
    reader = PdfReader(paper)
    assert len(reader.pages) == 1
    return Texts(page.read_text(encoding="utf-8")).text, squeezed(reader.pages[0].extract_text())


def test_page_and_paper_say_the_same(inputs, tmp_path):
    card, texts = release_card(inputs), both(tmp_path, inputs)
    assert [row.title for row in card.rows] == [
        "May these images leave?",
        "May these weights leave?",
        "Singling out",
        "Linkability",
        "Inference",
        "The worst patient",
        "Copies",
        "Use",
        "What was not tried",
        "Who decides",
    ]
    for row in card.rows:
        for text in (row.title, row.asked, row.verdict, row.finding, " ".join(row.words), row.numbers):
            assert all(squeezed(text) in each for each in texts), text
    for each in texts:
        assert squeezed("800 synthetic slices, whose generator learned from 30 patients of clinic") in each
        assert squeezed("attacks on the generator’s weights") not in each
        assert squeezed("Passing is no proof of anonymity") in each
        assert "[5]EMA" in each
        assert squeezed("name, date, signature") in each


def test_a_limit_that_is_not_kept_stands_on_both(inputs, tmp_path):
    failing = Verdict("share of slices copied at τ99", 0.25, 0.03, False, "images")
    for text in both(tmp_path, replace(inputs, limits=[*inputs.limits, failing], forced=True)):
        assert squeezed("slices that look like copies, to a strict eye: 25 of 100 (at most 3)") in text
        assert squeezed("Outside 2 of 11 limits") in text
        assert squeezed("Forced: this was made although it does not keep its limits.") in text
    for text in both(tmp_path, inputs):
        assert "Forced" not in text


def test_a_demonstration_says_so_on_both(inputs, tmp_path):
    for text in both(tmp_path, replace(inputs, demonstration=True)):
        assert squeezed("Demonstration: training was cut to a small part of what it needs.") in text
    for text in both(tmp_path, inputs):
        assert "Demonstration" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_the_page_prints_on_one_sheet(inputs, tmp_path):
    page, _ = build_release_card(
        tmp_path, replace(inputs, removed={"nearer than τ99": 3}, forced=True, demonstration=True)
    )
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", f"--print-to-pdf={tmp_path / 'printed.pdf'}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert len(PdfReader(tmp_path / "printed.pdf").pages) == 1


def test_a_simulated_cohort_is_called_so(inputs, tmp_path):
    for simulated in (True, False):
        for text in both(tmp_path, replace(inputs, cohort=replace(COHORT, simulated=simulated))):
            assert ("Simulatedphantomcohort" in text) is simulated


def test_a_sent_set_claims_no_training(inputs, tmp_path):
    found = attacked.found(0.0)
    verdicts = worst_verdicts([(audit(), found)], sent=True)
    for simulated in (True, False):
        cohort = replace(COHORT, simulated=simulated)
        worst = replace(inputs.worst, copies=0)
        given = replace(
            inputs, name="sent", cohort=cohort, worst=worst, attacks=[found], limits=verdicts, weights=None, sent=True
        )
        card = release_card(given)
        assert card.rows[0].status == "bad"
        assert not [row.title for row in card.rows[:7] if row.status == "good"]
        for text in both(tmp_path, given):
            assert squeezed("compared with 30 patients of clinic") in text
            assert squeezed("whether their generator learned from them is not known") in text
            assert squeezed("not judged (whom its generator learned from is not known): slices that look like") in text
            assert squeezed("whose generator learned from") not in text
            assert squeezed("Nothing here speaks of people") not in text
            assert (squeezed("Compared with a simulated phantom cohort alone") in text) is simulated


def test_the_same_inputs_give_the_same_bytes_without_a_date(inputs, tmp_path):
    first, second = (build_release_card(tmp_path / name, inputs) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert PdfReader(first[1]).metadata.get("/CreationDate", "D:2000").startswith("D:2000")


def test_nobody_is_named(inputs, tmp_path):
    pages = build_release_card(tmp_path, inputs)
    texts = [*both(tmp_path, inputs), *(path.read_bytes().decode("latin-1") for path in pages), repr(inputs)]
    for text in texts:
        assert not [name for name in NAMES if name in text]
    assert all("Patient1" in text for text in texts[:2])


def test_the_worst_patient_is_whom_the_clearest_copy_points_at(tmp_path):
    calm = audited(tmp_path / "calm", [1.0, 2.6], NAMES)
    folder = audited(tmp_path / "loud", [2.0, 9.0, 2.7, 4.0], [NAMES[0], NAMES[1], NAMES[0], NAMES[1]])
    found = worst_patient([calm, folder], pictured=True)
    assert (found.copies, found.slices, found.above, found.outsiders) == (2, 4, 0, 3)  # 9.0 and 4.0, not 2.7
    assert found.risk == 1
    assert found.pair[:, 0, 0, 0].tolist() == [2, 102]
    assert worst_patient([folder, calm], pictured=True).copies == 2
    assert worst_patient([calm], pictured=True).risk == pytest.approx(2 / 3)  # 3.0 is above 2.6


def test_for_strangers_the_worst_patient_has_no_picture(tmp_path, inputs):
    worst = worst_patient([audited(tmp_path / "loud", [2.0, 9.0], NAMES)], pictured=False)
    assert worst.copies == 1
    card = build_release_card(tmp_path, replace(inputs, worst=worst))
    assert not PdfReader(card[1]).pages[0].images
    assert "<img" not in card[0].read_text()
    for text in both(tmp_path, replace(inputs, worst=worst)):
        assert squeezed("The patient’s image is not shown") in text


def test_without_a_picture_no_number_of_the_worst_patient_is_there(inputs, tmp_path):
    kept = replace(inputs.worst, copies=7177, above=7178, pair=None)
    for text in both(tmp_path, replace(inputs, worst=kept)):
        assert squeezed("One stands out; shown in the house alone") in text
        assert "717" not in text.replace(",", "")
        assert "Lookatthepicture" not in text


def test_one_training_patient_or_no_audit_has_no_worst(tmp_path, inputs):
    folder = audited(tmp_path / "single", [1.0, 2.0], NAMES, tau99=None)
    assert worst_patient([folder], pictured=True) is None
    assert worst_patient([], pictured=True) is None
    for text in both(tmp_path, CardInputs("sent", COHORT, [], [])):
        assert squeezed("attacks on the generator’s weights") in text
        assert "Theworstpatient" not in text
        assert squeezed("the set was not audited") in text


def test_hostile_and_long_texts_stay_text_on_one_page(inputs, tmp_path):
    hostile = "<b>x</b> & 医院 \u202e" + "reason " * 40
    found = attacked.found(0.0, columns=("distance",), attribute=hostile, linkage=hostile, white_box=hostile)
    changed = replace(inputs, name="<script>1</script>", attacks=[found], removed={hostile: 3})
    changed = replace(changed, cohort=replace(COHORT, name=hostile), limits=limits(audit(0.9, 0.001), found))
    page, paper = both(tmp_path, changed)
    assert squeezed("<script>1</script>") in page
    assert squeezed("<script>1</script>") in paper
    assert squeezed("<b>x</b> & 医院 ‹U+202E›reason") in page
    assert squeezed("<b>x</b> & U+533BU+9662 ‹U+202E›reason") in paper  # no font has them all
    assert "<script" not in (tmp_path / "card.html").read_text()


def test_of_several_sets_a_limit_is_judged_where_it_is_kept_least():
    found = attacked.found(0.0)
    for shares in ((0.02, 0.5, 0.1), (0.5, 0.1, 0.02), (0.1, 0.02, 0.5)):
        verdicts = worst_verdicts([(audit(share), found) for share in shares])
        copied = [each for each in verdicts if "τ99" in each.name and each.about == "images"]
        assert [(each.value, each.passed) for each in copied] == [(0.5, False)]
    kept = worst_verdicts([(audit(share), found) for share in (0.01, 0.02, 0.005)])
    assert [each.value for each in kept if "τ99" in each.name] == [0.02] * 2
    assert not [each for each in verdicts if "filter" in each.name]
    assert len({(each.about, each.name) for each in verdicts}) == len(verdicts)
