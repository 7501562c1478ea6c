"""Metadata of a package as Croissant 1.1 (JSON-LD), with the vocabulary for responsible AI (RAI 1.0).

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html
"""

import json
from collections.abc import Mapping

from benchmark.data.foreign.package import CHANNELS, ENDINGS
from benchmark.release.pages import LICENCE, Facts, is_address

FILE = "croissant.json"
_MIME = {"png": "image/png", "nifti": "application/gzip"}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(facts: Facts, digests: Mapping[str, str]) -> bytes:
    """croissant.json. digests: sha256 of the package's arrays, by file name, where it holds arrays."""
    answers = facts.answers
    place = str(answers.get("distribution", ""))
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": facts.name,
        "description": f"{facts.title}. {facts.declared.slices} synthetic axial slices: T1, T1ce, T2, FLAIR and the "
        f"annotation of the tumour. {_forced(facts)}",
        "license": answers.get("licence_url") or LICENCE,
        "creator": [{"@type": "sc:Organization", "name": name} for name in facts.creators],
        "url": place if is_address(place) else "README.md",
        "version": answers.get("version") or "1.0.0",
        "keywords": ["synthetic data", "magnetic resonance imaging", "brain tumour", "segmentation"],
        "citeAs": f"{', '.join(facts.creators)}: {facts.title}.",
        "isLiveDataset": False,
        **({"datePublished": answers["date"]} if "date" in answers else {}),
        **_responsible(facts),
        "distribution": _distribution(facts, digests),
    }
    if facts.declared.format == "png":
        described["recordSet"] = [_records(channel) for channel in CHANNELS]
    return (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()


def _responsible(facts: Facts) -> dict[str, object]:
    removed = "; ".join(f"{count} {reason}" for reason, count in facts.removed.items())
    people = f"{facts.patients} {'simulated ' if facts.cohort.simulated else ''}patients"
    if facts.generator:
        collected = f"Drawn from a generative model, trained on annotated MR slices of {people}."
        annotated = "The annotation was generated together with the images; no expert checked it."
        learned = f"The generator learned from {'simulated' if facts.cohort.simulated else 'health'} data."
    else:
        collected = f"Sent as synthetic; what its generator learned from is not known here. Judged by {people}."
        annotated = "The annotation came with the images; no expert checked it here."
        learned = "What their generator learned from is not known here."
    return {
        "rai:dataCollection": collected,
        "rai:dataCollectionType": ["Synthetic data"],
        "rai:dataManipulationProtocol": "Nothing was left out."
        if facts.keep == "all"
        else f"Filtered before release (rule {facts.keep}): of {facts.whole} slices left out {removed}.",
        "rai:dataAnnotationProtocol": annotated,
        "rai:dataLimitations": "Slices, not volumes. What training patients did not show is not there. "
        f"{_forced(facts)}".strip(),
        "rai:dataBiases": "Those of the training patients: their scanners, protocols, ages and tumours.",
        "rai:dataUseCases": ["Training", "Testing"],
        "rai:personalSensitiveInformation": "Slices are drawn by a model; whether one repeats a real person is judged "
        f"in card.html, with the attacks that were tried. {learned} Passing is not proof of anonymity.",
        "rai:dataSocialImpact": "Annotated images for those who cannot have real ones; a network trained on them alone "
        "can miss what the generator never drew, and must be tested on real patients.",
        "rai:dataReleaseMaintenancePlan": str(facts.answers.get("maintenance") or "To be filled in by the owner."),
    }


def _forced(facts: Facts) -> str:
    failed = "; ".join(verdict.sentence() for verdict in facts.failed)
    return f"Forced: made although limits are not kept: {failed}." if failed else ""


def _distribution(facts: Facts, digests: Mapping[str, str]) -> list[dict[str, object]]:
    form = facts.declared.format
    if form == "arrays":
        return [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": name,
                "encodingFormat": "application/x-npy",
                "sha256": digests[name],
            }
            for name in ("images.npy", "labels.npy")
        ]
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"{channel}-files",
            "name": f"{channel}-files",
            "description": f"{channel}, one file a slice",
            "encodingFormat": _MIME[form],
            "includes": f"{channel}/*.{ENDINGS[form]}",
        }
        for channel in CHANNELS
    ]


def _records(channel: str) -> dict[str, object]:
    """A record for each slice: its name, which is the same in all channels, and its image."""

    def field(name: str, kind: str, part: str, **more: object) -> dict[str, object]:
        source = {"fileSet": {"@id": f"{channel}-files"}, "extract": {"fileProperty": part}, **more}
        return {"@type": "cr:Field", "@id": f"{channel}/{name}", "name": name, "dataType": kind, "source": source}

    fields = [
        field("slice", "sc:Text", "filename", transform={"regex": r"^(.+)\.png$"}),
        field("image", "sc:ImageObject", "content"),
    ]
    key = {"@id": f"{channel}/slice"}
    return {"@type": "cr:RecordSet", "@id": channel, "name": channel, "key": key, "field": fields}
