"""A model as OpenVINO's representation: an ``.xml`` file, its weights in a ``.bin`` beside it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from decoupe.errors import ConfigError, MissingExtraError, OutputError
from decoupe.export import checked_session, described, graph_of, once, onnx_file, prepared, refuse
from decoupe.export.parity import Parity
from decoupe.runtimes.sessions import OpenVinoSession
from decoupe.telemetry import import_openvino
from decoupe.weights.labels import NO_NAMES, Vocabulary
from decoupe.weights.registry import Preprocessing


def export_openvino(
    model: nn.Module,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    metadata: Mapping[str, str],
    vocabulary: Vocabulary = NO_NAMES,
    half_weights: bool = False,
    force: bool = False,
) -> list[Parity]:
    """Write ``model`` as ``.xml`` and ``.bin`` and check it as `decoupe.export.export_onnx` does.

    The graph is the one of ONNX files, deformable convolutions as OpenVINO's own operator; it looks once.

    Raises:
        MissingExtraError: onnx or OpenVINO is not installed.
        ConfigError: numbers that differ from torch's; nothing is written.
        OutputError: ``path`` cannot be written.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise MissingExtraError("exporting to OpenVINO", "openvino") from error
    path, preprocessing = Path(path), once(preprocessing)
    model = prepared(model)
    proto = graph_of(model, preprocessing)
    stored = described(model, preprocessing, metadata, vocabulary)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            plain, part = Path(folder, "plain.onnx"), Path(folder, path.name)
            plain.write_bytes(onnx_file.finish(proto, {}))
            converted = convert(plain)
            for key, value in stored.items():
                converted.set_rt_info(value, ["decoupe", key])
            openvino.save_model(converted, part, compress_to_fp16=False)
            report = checked_session(model, OpenVinoSession(part, "cpu"))
            if not force:
                refuse(report)
            if half_weights:
                openvino.save_model(converted, part, compress_to_fp16=True)
                report += [
                    dataclasses.replace(row, rounded=True)
                    for row in checked_session(model, OpenVinoSession(part, "cpu"))
                ]
            for suffix in (".bin", ".xml"):
                part.with_suffix(suffix).replace(path.with_suffix(suffix))
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another place") from None
    except RuntimeError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"OpenVINO cannot convert this model ({str(error)[-200:]!r})") from None
    return report


def convert(path: Path) -> Any:
    """An ``.onnx`` file with ``DeformConv`` as an ``openvino.Model``."""
    openvino = import_openvino()
    from openvino.frontend.onnx import ConversionExtension

    return openvino.convert_model(path, extension=[ConversionExtension("DeformConv", _deformable)])


def _deformable(node: Any) -> list[Any]:
    """``DeformConv`` as OpenVINO's operator, which its reader of ONNX does not know by itself."""
    from openvino import opset8 as ops

    x, weight, offset, bias, mask = (node.get_input(index) for index in range(5))
    pads = node.get_attribute("pads")
    found = ops.deformable_convolution(
        x,
        offset,
        weight,
        node.get_attribute("strides"),
        pads[:2],
        pads[2:],
        node.get_attribute("dilations"),
        mask=mask,
        bilinear_interpolation_pad=True,
    )
    by_channel = ops.reshape(bias, ops.constant([1, -1, 1, 1]), special_zero=False)
    return [ops.add(found, by_channel).output(0)]
