"""Logits by hand: what a segment model would give that sees exactly these masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from decoupe.inference import predictor
from decoupe.inference.predictor import Segmenter
from decoupe.memory import Footprint
from decoupe.runtimes import open_runtime
from decoupe.weights.labels import Vocabulary
from decoupe.weights.registry import Preprocessing

ANIMALS = Vocabulary(("cat", "dog", "grass-merged", "sky-other-merged"), stuff=(2, 3), ids=(17, 18, 193, 187))
AS_IT_IS = Preprocessing(size=(64, 64), fit="keep", size_range=(1, 10**6), multiple=1)


def logits_of(
    masks: Sequence[np.ndarray], classes: Sequence[int], vocabulary: Vocabulary = ANIMALS
) -> tuple[np.ndarray, np.ndarray]:
    """Class logits ``(Q, K + 1)`` and mask logits ``(Q, h, w)``, as sure as can be."""
    class_logits = np.zeros((len(masks), len(vocabulary.names) + 1), np.float32)
    class_logits[np.arange(len(masks)), list(classes)] = 12
    return class_logits, np.where(masks, 12, -12).astype(np.float32)


class Seer:
    """A segment runtime that sees ``masks`` of ``classes`` in every picture, at the network's size."""

    name, engine, device, dtype = "seer", "hand", "cpu", "float32"
    notes, normalises = (), False

    def __init__(
        self, masks: Sequence[np.ndarray], classes: Sequence[int], vocabulary: Vocabulary = ANIMALS
    ) -> None:
        self.preprocessing = AS_IT_IS
        self.vocabulary = vocabulary
        self.logits = logits_of(masks, classes, vocabulary)
        self.batches: list[tuple[int, ...]] = []

    def footprint(self) -> Footprint:
        return Footprint(0, 1000)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(images.shape)
        classes, masks = self.logits
        return np.stack([classes] * len(images)), np.stack([masks] * len(images))


def see(
    monkeypatch: pytest.MonkeyPatch,
    masks: Sequence[np.ndarray],
    classes: Sequence[int],
    *,
    vocabulary: Vocabulary = ANIMALS,
    matte_model: Path | None = None,
) -> None:
    """Put a `Seer` in the place of every MaskFormer of the catalogue; ``matte_model`` in that of the rest."""

    def opened(model: str | Path | None = None, **options: object) -> object:
        if str(model).startswith("maskformer"):
            return Seer(masks, classes, vocabulary)
        return open_runtime(matte_model or model, **options)

    size = masks[0].shape
    monkeypatch.setattr(predictor, "open_runtime", opened)
    monkeypatch.setattr(Segmenter, "_batch", lambda self, pictures, _: np.zeros((len(pictures), 3, *size)))
