"""A model as a program of ``torch.export``: a ``.pt2`` file that PyTorch runs without the model's code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from decoupe.export import checked_session, described, once, prepared, refuse
from decoupe.export.forms import traceable
from decoupe.export.graphs import MatteGraph, SegmentGraph
from decoupe.export.onnx_file import captured
from decoupe.export.parity import Parity
from decoupe.inference.media import replacing
from decoupe.models import MaskFormer
from decoupe.runtimes.sessions import PROGRAM_METADATA, ProgramSession
from decoupe.weights.labels import NO_NAMES, Vocabulary
from decoupe.weights.registry import Preprocessing


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    metadata: Mapping[str, str],
    vocabulary: Vocabulary = NO_NAMES,
    force: bool = False,
) -> list[Parity]:
    """Write ``model`` as ``.pt2`` and check it as `decoupe.export.export_onnx` does; it looks once.

    The program takes ``image`` ``(N, 3, H, W)``, float32, sides multiples of 32, and gives alpha or the two
    arrays of a MaskFormer. Below 128 pixels a side the tracer's own assertions refuse some models: a map of
    one cell is another case to it. Of a model with a Swin or deformable convolutions it names operators of
    `decoupe.backbones.swin_operators` or torchvision.

    Raises:
        ConfigError: a model that cannot be traced, or numbers that differ from torch's; nothing is written.
        OutputError: ``path`` cannot be written.
    """
    preprocessing = once(preprocessing)
    model = prepared(model)
    form = traceable(model)
    graph = SegmentGraph(form) if isinstance(model, MaskFormer) else MatteGraph(form)
    with torch.no_grad():
        program = captured(graph, gridded=False)
    program.example_inputs = None  # megabytes of zeros
    stored = {
        f"decoupe.{key}": value
        for key, value in described(model, preprocessing, metadata, vocabulary).items()
    }
    with replacing(Path(path)) as temporary:
        with temporary.open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the format may change
            torch.export.save(program, file, extra_files={PROGRAM_METADATA: json.dumps(stored)})
        del program
        report = checked_session(model, ProgramSession(temporary, "cpu"))
        if not force:
            refuse(report)
    return report
