"""What ``decoupe segment`` writes of a picture: a picture, and the segments as JSON beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

import decoupe
from decoupe.commands.plan import Plan, check_formats, refuse_foreign, refuse_log
from decoupe.commands.running import Files
from decoupe.errors import InputError, OutputError, unknown
from decoupe.inference.media import encode, real_paths, refuse_overwriting
from decoupe.inference.segments import READINGS, ReadingName, Segments

FORMS = ("overlay", "labels", "coco", "coco-panoptic")
GENERATOR = "decoupe segment"


def _json_of(target: Path) -> Path:
    return target.with_suffix(".json")


def _mark(form: str, source: Path) -> bytes:
    """How a picture's JSON begins: what an interrupted run left is known by it, and alone is replaced."""
    return json.dumps({"generator": GENERATOR, "format": form, "source": source.name})[:-1].encode()


def check_form(form: str, reading: str | None) -> tuple[str, ReadingName]:
    """The format and the reading, where they go together.

    Raises:
        InputError: one that does not exist, or a reading that the format is not of.
    """
    if form not in FORMS:
        raise InputError(unknown("format", form, FORMS))
    kind = next((name for name in READINGS if name == (reading or "panoptic")), None)
    if kind is None:
        raise InputError(unknown("reading", str(reading), READINGS))
    wanted: dict[str, ReadingName] = {"coco": "instances", "coco-panoptic": "panoptic"}
    if form in wanted and reading not in (None, wanted[form]):
        raise InputError(f"--format {form} gives {wanted[form]}: leave --reading out")
    return form, wanted.get(form, kind)


def check_targets(plan: Plan, form: str, overwrite: bool, log: Path | None) -> None:
    """Refuse outputs that the format cannot hold, and JSON that would take a picture's or the log's place."""
    for target in plan.outputs:
        suffix = target.suffix.lower() if target is not None else ".json"
        if form in ("labels", "coco-panoptic") and suffix != ".png":
            raise OutputError(f"--format {form} writes exact numbers as .png: name such an output with -o")
    pictures = [target for target in plan.outputs if target is None or target.suffix.lower() != ".json"]
    check_formats(pictures, flat=True)
    sources = real_paths(job.source for job in plan.jobs if job.source is not None)
    refuse_overwriting((_json_of(job.target) for job in plan.jobs if job.target is not None), sources)
    refuse_log((_json_of(target) for target in plan.outputs if target is not None), log)
    if not overwrite:
        refuse_foreign(plan, _json_of, lambda source: _mark(form, source))


def segment_files(found: Segments, form: str, reading: ReadingName, target: Path | None, model: str) -> Files:
    """The JSON, then the picture, so that a picture that stands has its JSON beside it."""
    name = Path(found.source).name
    height, width = found.size
    content: dict[str, Any] = {
        "generator": GENERATOR,
        "format": form,
        "source": name,
        "version": decoupe.__version__,
        "model": model,
        "reading": reading,
    }
    image = {"id": 0, "file_name": name, "width": width, "height": height}
    picture: Image.Image | None = None
    if form == "coco":
        content |= {"images": [image], "annotations": found.coco_instances()}
    elif form == "coco-panoptic":
        annotation, picture = found.coco_panoptic(file_name=target.name if target is not None else name)
        content |= {"images": [image], "annotations": [annotation]}
    else:
        content |= {"image": name, "width": width, "height": height, **found.polygons(reading)}
    if form.startswith("coco"):
        content["categories"] = found.categories()
    data = (json.dumps(content) + "\n").encode()
    if target is None or target.suffix.lower() == ".json":
        return [(data, target)]
    if picture is None:
        picture = found.label_image(reading) if form == "labels" else found.overlay(reading)
    return [(data, _json_of(target)), (encode(picture, target.suffix), target)]
