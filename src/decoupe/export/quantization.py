"""An exported matte model in 8-bit integers, calibrated on photographs, kept only if it loses little."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decoupe.datasets.sets import Pair, find_pairs, masks_of, read_pair, spread
from decoupe.errors import ConfigError, InputError, MissingExtraError
from decoupe.inference.media import find_images, replacing
from decoupe.inference.pictures import read_image
from decoupe.inference.predictor import Predictor, open_predictor
from decoupe.inference.preprocess import network_size, to_network
from decoupe.notices import hushed
from decoupe.telemetry import import_onnxruntime

CALIBRATED = 100
"""Most photographs that the ranges of activations are taken from."""

JUDGED = 300
"""Most photographs that what was lost is measured on."""

KEPT_AT_END = 2
"""Last convolutions that stay in floats, as the first does: they make the logits, and see the pixels."""

Picture = Path | Pair


@dataclass(frozen=True)
class Effect:
    """What quantising changed.

    Attributes:
        pictures: how many it was measured on; none of them calibrated.
        alpha: mean difference of alpha.
        before: S-measure and MAE of the file in floats; None where the folder has no masks.
        after: of the quantised one.
    """

    pictures: int
    alpha: float
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None

    @property
    def lost(self) -> float:
        """S-measure lost; without masks the mean difference of alpha."""
        if self.before is None or self.after is None:
            return self.alpha
        return self.before["S"] - self.after["S"]


def quantise(source: Path, target: Path, folder: Path, *, most: float) -> Effect:
    """Write an exported file with its convolutions in 8-bit integers.

    Args:
        source: ``.onnx`` file of a matte model, in floats.
        target: the file to write.
        folder: photographs, or a set with ``im`` and ``gt``: a quarter calibrates, the rest judges.
        most: largest loss at which the file is kept; see `Effect.lost`.

    Returns:
        What it changed.

    Raises:
        InputError: too few photographs, or a model that gives no mattes or looks twice.
        ConfigError: it loses more; nothing is written.
        MissingExtraError: onnx is not installed.
        OutputError: ``target`` cannot be written.
    """
    calibrating, judging = parts_of(folder)
    plain = open_predictor(source)
    if plain.preprocessing.two_scale is not None:
        raise InputError(f"{source} looks twice at large pictures: quantise a file that looks once")
    with tempfile.TemporaryDirectory() as place, replacing(target) as temporary:
        made = Path(place, "quantised.onnx")
        calibrate(source, made, plain, calibrating)
        effect = measured(plain, open_predictor(made), judging)
        if not effect.lost <= most:
            what = "of alpha on average" if effect.before is None else "of the S-measure"
            raise ConfigError(
                f"in 8 bits {source.name} loses {effect.lost:.4f} {what}, "
                f"at most {most:g} is allowed: not written"
            )
        temporary.write_bytes(made.read_bytes())
    return effect


def parts_of(folder: Path) -> tuple[Sequence[Picture], Sequence[Picture]]:
    """Photographs to calibrate on and others to judge by, evenly chosen.

    Raises:
        InputError: too few of them.
    """
    pairs: list[Picture] = [*(find_pairs(folder) if masks_of(folder) else find_images(folder))]
    calibrating = pairs[::4]
    judging = [pair for index, pair in enumerate(pairs) if index % 4]
    if not judging:
        raise InputError(f"{folder} holds {len(pairs)} photographs, expected at least 2, better 100")
    return spread(calibrating, CALIBRATED), spread(judging, JUDGED)


def _pixels(picture: Picture) -> tuple[Any, npt.NDArray[np.uint8] | None]:
    """A photograph, and its mask where there is one."""
    return read_pair(picture) if isinstance(picture, Pair) else (picture, None)


def measured(plain: Predictor, quantised: Predictor, pictures: Iterable[Picture]) -> Effect:
    """Both models on the same photographs."""
    from decoupe.evaluation.mattes import MatteScores

    scores, differences = (MatteScores(), MatteScores()), []
    truth = None
    for picture in pictures:
        image, truth = _pixels(picture)
        alphas = [predictor(image).alpha for predictor in (plain, quantised)]
        differences.append(float(np.abs(alphas[0] - alphas[1]).mean()))
        if truth is not None:
            for score, alpha in zip(scores, alphas, strict=True):
                score.update(alpha, truth)
    effect = Effect(len(differences), float(np.mean(differences)))
    if truth is None:
        return effect
    before, after = ({name: score.result()[name] for name in ("S", "MAE")} for score in scores)
    return Effect(effect.pictures, effect.alpha, before, after)


def calibrate(source: Path, target: Path, predictor: Predictor, pictures: Iterable[Picture]) -> None:
    """Write the file with ranges of activations from ``pictures``, weights by channel.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx

        import_onnxruntime()
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("quantising", "export") from error
    with tempfile.TemporaryDirectory() as place, hushed():
        floats = Path(place, "floats.onnx")
        _folded(source, floats)
        convolutions = [node.name for node in onnx.load(floats).graph.node if node.op_type == "Conv"]
        quantization.quantize_static(
            floats,
            target,
            _Reader(predictor, pictures),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # In 7 bits: processors without VNNI add products up in 16 bits, which eight would overflow.
            reduce_range=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[*convolutions[:1], *convolutions[-KEPT_AT_END:]],
        )


def _folded(source: Path, target: Path) -> None:
    """A file whose constants ONNX Runtime has folded, weights in floats, in standard operators."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class _Reader:
    """What the calibration asks for one input after the other."""

    def __init__(self, predictor: Predictor, pictures: Iterable[Picture]) -> None:
        self._inputs = self._read(predictor, pictures)

    @staticmethod
    def _read(predictor: Predictor, pictures: Iterable[Picture]) -> Iterator[dict[str, Any]]:
        preprocessing = predictor.preprocessing
        for each in pictures:
            picture = read_image(_pixels(each)[0])
            size = network_size(picture.size, preprocessing)
            yield {"image": to_network(picture, size, preprocessing)[np.newaxis]}

    def get_next(self) -> dict[str, Any] | None:
        """The next input, None after the last."""
        return next(self._inputs, None)
