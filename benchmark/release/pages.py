"""The package's pages: README, datasheet, model card, CITATION, filled from what is known, with marked blanks.

Nothing on them names a person, a file or a machine: they say how many, never who. What only the owner knows is a blank
until `answers` fills it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import yaml

from analysis.arms import label
from analysis.limits import Verdict, not_kept
from analysis.statistics import counted
from benchmark.data.foreign.package import CHECKSUMS, FORMAT_NAMES, Declaration
from benchmark.errors import UserError
from benchmark.parsing import nearest
from benchmark.report.page import TEMPLATES, CohortFacts

LICENCE = "LICENSE"  # the name under which tools look for it
README, DATASHEET, MODEL_CARD, CITATION = "README.md", "datasheet.md", "model_card.md", "CITATION.cff"
MOST_ANSWERS = 1 << 20  # bytes of the owner's answers

QUESTIONS = {  # what only the owner knows
    "title": "title of the set",
    "creators": "who made the set, one name or a list",
    "contact": "who answers questions, and where",
    "version": "version of this release, as 1.0.0",
    "date": "day of this release, as 2026-01-31",
    "purpose": "why the set was made, and who paid for it",
    "source": "which real images the generator learned from, from which hospitals and scanners, with what annotation",
    "legal_basis": "the patients' consent or another legal basis, and who reviewed it",
    "decision": "who decided that the set may leave, when, and on what grounds",
    "distribution": "where the set is to be had, and a DOI if it has one",
    "maintenance": "who mends errors, for how long, and how a withdrawal is made known",
    "licence_url": "address of the licence's text, where it has one",
}


@dataclass(frozen=True)
class Facts:
    """What is known of a package.

    name: the package's folder. generator: None where the set was sent by somebody. cohort: its name is no folder's.
    keep, whole, removed: how the set was filtered, slices before, slices left out by reason. audit, attack: of the
    slices in the package; whole_audit, whole_attack: of the set before the filter. use: how much Dice a network keeps
    that learns from them alone, in words. training: what is known of the generator's, as (what, value). answers: the
    owner's, by the keys of QUESTIONS.
    """

    name: str
    generator: str | None
    declared: Declaration
    cohort: CohortFacts
    keep: str
    whole: int
    removed: Mapping[str, int]
    tumour_share: float
    audit: Mapping[str, Any]
    attack: Mapping[str, Any]
    whole_audit: Mapping[str, Any]
    whole_attack: Mapping[str, Any]
    verdicts: list[Verdict]
    use: str
    weights: bool
    forced: bool
    commit: str
    training: list[tuple[str, str]] = field(default_factory=list)
    answers: Mapping[str, str | list[str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The owner's, or one that says what it is."""
        made = f"by {label(self.generator)}" if self.generator else "of a generator elsewhere"
        return str(self.answers.get("title") or f"Synthetic annotated MR slices of brains with tumours, {made}")

    @property
    def creators(self) -> list[str]:
        """The owner's answer, or a blank."""
        given = self.answers.get("creators", blank("creators", marked=False))
        return [given] if isinstance(given, str) else list(given)

    @property
    def patients(self) -> int:
        """Whom the generator was trained on; of a set that was sent, those that it is compared with."""
        return self.audit["n_train_subjects"]

    @property
    def failed(self) -> list[Verdict]:
        """Limits that the package is made in spite of: those of weights only where it holds them."""
        return standing_against(self.verdicts, self.weights)


def standing_against(verdicts: list[Verdict], weights: bool) -> list[Verdict]:
    """Limits not kept, of images and, where weights are to leave, too, of weights."""
    return [verdict for verdict in not_kept(verdicts) if weights or verdict.about == "images"]


def nameless(cohort: CohortFacts) -> CohortFacts:
    """The cohort as strangers may read of it: its name is a folder's of the machine, unless it is the phantom."""
    return replace(cohort, name="the phantom cohort" if cohort.simulated else "the source cohort", card="")


def blank(key: str, marked: bool = True) -> str:
    """What stands in place of an answer that only the owner can give."""
    text = f"[to be filled in by the owner: {QUESTIONS[key]}; answers key: {key}]"
    return f"**{text}**" if marked else text


def read_answers(path: Path | None) -> dict[str, str | list[str]]:
    """The owner's answers, as they stand there: 1.10 is no number. Raises UserError for what is no YAML file of them,
    naming the key."""
    if path is None:
        return {}
    try:
        content = path.expanduser().read_bytes()
        if len(content) > MOST_ANSWERS:
            raise ValueError(f"it has {len(content) >> 20} MiB")
        found = yaml.load(content.decode("utf-8"), yaml.BaseLoader)  # texts, lists and mappings, nothing else
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"answers: {path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(found, dict):
        raise UserError(f"answers: {path} holds no keys and values; known keys: {', '.join(QUESTIONS)}")
    answers: dict[str, str | list[str]] = {}
    for key, value in found.items():
        if key not in QUESTIONS:
            raise UserError(f"answers: {path}: unknown key '{key!s:.100}'{nearest(str(key), QUESTIONS)}")
        listed = isinstance(value, list) and key == "creators"
        texts = [_text(each) for each in (value if listed else [value])]
        if not texts or not all(texts):
            raise UserError(f"answers: {path}: '{key}' needs a text (it is empty, or a list or mapping)")
        if key == "licence_url" and not is_address(texts[0]):
            raise UserError(f"answers: {path}: '{key}' needs an address, https://… (got '{texts[0]:.100}')")
        answers[key] = texts if listed else texts[0]
    return answers


def _text(value: Any) -> str:
    """A text on one line; "" for what is none."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def is_address(text: str) -> bool:
    """Whether a text is the address of a page, so that a link to it runs nothing."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in text


def pages(facts: Facts) -> dict[str, bytes]:
    """The pages by file name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / "release"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"label": label, "percent": _percent, "yaml": _quoted}
    shared = {
        "facts": facts,
        "owner": lambda key: facts.answers.get(key) or blank(key),
        "blanks": {key: question for key, question in QUESTIONS.items() if key not in facts.answers},
        "format": FORMAT_NAMES[facts.declared.format],
        "counted": counted,
        "checksums": CHECKSUMS,
        "licence": LICENCE,
    }
    return {
        name: environment.get_template(f"{name}.j2").render(shared).encode()
        for name in (README, DATASHEET, MODEL_CARD, CITATION)
    }


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.1f} %"


def _quoted(text: str) -> str:
    """As a YAML string on one line."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9).strip()
