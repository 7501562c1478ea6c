"""What the pages of a package say of a set, by what is known of it; and the owner's answers, as they stand there."""

import json
from dataclasses import replace

import pytest

from benchmark.data.foreign.package import Declaration
from benchmark.errors import UserError
from benchmark.release.croissant import croissant
from benchmark.release.pages import Facts, pages, read_answers
from benchmark.report.page import CohortFacts


def attack(auc):
    found = {"auc": auc, "auc_interval": [auc - 0.1, auc + 0.1], "control": {"auc_band": [0.4, 0.6]}}
    found |= {"true_positives": 0.02, "true_positives_by_chance": 0.01}
    return {"attacks": {"distance": found}, "reasons": {}, "patients": {"members": 5, "held_out": 3}}


FACTS = Facts(
    name="synthetic-stylegan2",
    generator="stylegan2",
    declared=Declaration("png", 16, 40, [1.0, 1.0, 1.0], False),
    cohort=CohortFacts(
        name="the source cohort",
        simulated=False,
        subjects={"train": 90, "validation": 2, "test": 3},
        slices={"train": 900, "validation": 2, "test": 3},
        rejected=0,
        image_size=16,
        field_of_view=256,
        card="",
    ),
    keep="safe",
    whole=48,
    removed={"copied": 8},
    tumour_share=0.5,
    audit={"n_train_subjects": 5, "n_train": 50, "copied_share": {"tau99": 0.01}},
    attack=attack(0.44),
    whole_audit={"copied_share": {"tau99": 0.2}},
    whole_attack=attack(0.52),
    verdicts=[],
    use="",
    weights=True,
    forced=False,
    commit="",
)
SENT = replace(FACTS, generator=None, weights=False)


def text(facts):
    """All pages and the metadata, each line's end a space."""
    written = [content.decode() for content in pages(facts).values()]
    return " ".join(" ".join([*written, croissant(facts, {}).decode()]).split())


def test_patients_are_those_whom_the_generator_was_trained_on():
    assert "5 patients with 50 slices for training" in text(FACTS)
    assert "5 training patients of the source cohort, 50 slices" in text(FACTS)
    assert "trained on annotated MR slices of 5 patients" in text(FACTS)
    assert "90" not in text(FACTS).replace("1803.09010", "").replace("1810.03993", "")


def test_attacks_of_the_whole_set_stand_beside_those_of_what_is_left():
    assert "| distance | 0.44 [0.34, 0.54] | 0.52 [0.42, 0.62] | 0.40 to 0.60 |" in text(FACTS)
    assert "do not depend on it" not in text(FACTS)
    assert "and, for patients at risk, the attacks below saw" in text(FACTS)
    unfiltered = text(replace(FACTS, keep="all"))
    assert "flatter" not in unfiltered
    assert "were drawn, and none left out. **Are there splits" in unfiltered


@pytest.mark.parametrize("facts", [FACTS, SENT])
def test_whether_a_slice_repeats_somebody_is_never_asserted(facts):
    written = text(facts)
    assert written.count("Slices are drawn by a model; whether one repeats a real person is judged in") == 3
    for claim in ("of a real person.", "shows nobody", "No slice shows"):
        assert claim not in written


def test_weights_are_said_to_draw_what_the_filter_left_out():
    assert "see which slices the filter left out" in pages(FACTS)["README.md"].decode()
    assert "Whoever has them can draw that set again" in pages(FACTS)["model_card.md"].decode()
    assert "see which slices the filter left out" not in pages(replace(FACTS, weights=False))["README.md"].decode()


@pytest.mark.parametrize(("millimetres", "shown"), [(16.0, 256), (15.99, 256), (12.0, 192)])
def test_a_receiver_is_told_what_the_slices_show_whatever_presets_say(millimetres, shown):
    declared = replace(FACTS.declared, spacing=[5.0, millimetres, millimetres])
    commands = text(replace(FACTS, declared=declared)).count(
        f"-P image_size=16 -P field_of_view={shown} --env-manager local"
    )
    assert commands == 2


@pytest.mark.parametrize(
    ("millimetres", "said"),
    [
        (16.0, "15 % of 256 × 256 mm) were kept, 256 × 256 mm around"),
        (
            12.0,
            "15 % of 256 × 256 mm, the study's size and not that of the slices here) were kept, 192 × 192 mm around",
        ),
    ],
)
def test_the_datasheet_says_what_slices_show_and_of_what_the_rule_speaks(millimetres, said):
    declared = replace(FACTS.declared, spacing=[5.0, millimetres, millimetres])
    assert text(replace(FACTS, declared=declared)).count(said) == 1


@pytest.mark.parametrize("simulated", [True, False])
def test_of_a_sent_set_only_what_is_known_is_said(simulated):
    of = replace(FACTS.cohort, simulated=simulated)
    claims = (
        "independent draws",
        "divided by its own maximum",
        "Nothing was retouched",
        "were drawn",
        "learned from p",
    )
    claims = (*claims, "generated together", "was generated with", "trained on and attacked", "nobody in it is")
    written, ours = text(replace(SENT, cohort=of)), text(replace(FACTS, cohort=of))
    assert [claim for claim in claims if claim in written] == []
    said = [claim for claim in claims if claim in ours]
    assert len(said) >= len(claims) - 2
    assert ("Judged by simulated patients" in written) == simulated


# --- the owner's answers ---------------------------------------------------------------------------------------------


def answered(path, content):
    path.write_text(content)
    return read_answers(path)


def test_answers_are_what_was_written(tmp_path):
    content = "version: 1.10\ntitle: .nan\ndate: 2026-01-31\npurpose: no\ncreators: [1e3, Ada\n  Lovelace]\n"
    assert answered(tmp_path / "a.yaml", content) == {
        "version": "1.10",
        "title": ".nan",
        "date": "2026-01-31",
        "purpose": "no",
        "creators": ["1e3", "Ada Lovelace"],
    }


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "terms.txt", "https://", "http://[", "'a b'"]
)
def test_a_licence_s_address_is_one_of_the_web(tmp_path, url):
    with pytest.raises(UserError, match="'licence_url' needs an address"):
        answered(tmp_path / "a.yaml", f"licence_url: {url}")
    url = "https://creativecommons.org/licenses/by/4.0/"
    assert answered(tmp_path / "a.yaml", f"licence_url: {url}") == {"licence_url": url}


@pytest.mark.parametrize(
    ("place", "said"), [("javascript:x", "README.md"), ("on request", "README.md"), ("https://a.org", "https://a.org")]
)
def test_metadata_link_to_addresses_of_the_web_alone(place, said):
    assert json.loads(croissant(replace(FACTS, answers={"distribution": place}), {}))["url"] == said


BOMB = "creators: [&a0 [x]" + "".join(f", &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(30)) + "]"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("title: " + "[" * 20_000, "cannot be read as YAML"),
        ("title: !!python/name:os.system", "'title' needs a text"),
        ("title: [a]", "'title' needs a text"),
        ("title:", "'title' needs a text"),
        ("creators: []", "'creators' needs a text"),
        ("[title]: x", "cannot be read as YAML"),
        ("- title", "no keys and values"),
        (BOMB, "'creators' needs a text"),
    ],
)
def test_what_is_no_answer_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        answered(tmp_path / "a.yaml", content)
