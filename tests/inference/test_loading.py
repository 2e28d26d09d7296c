"""What is told before anything is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decoupe
from decoupe import DecoupeError, InputError, UnknownModelError
from decoupe.inference import predictor as predictor_module
from decoupe.inference.loading import shared
from decoupe.inference.predictor import open_predictor, open_segmenter
from inference.tiny import write_onnx

PICTURE = np.zeros((8, 8, 3), np.uint8)
SEGMENTS = "maskformer-swin-base-coco"


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (
            lambda: decoupe.cut(PICTURE, SEGMENTS),
            f"{SEGMENTS} names segments and gives no matte: use it with",
        ),
        (lambda: open_predictor("facebook/maskformer-swin-base-coco"), f"{SEGMENTS} names segments"),
        (lambda: open_segmenter("birefnet"), "birefnet gives mattes and names no segments: choose"),
        (lambda: decoupe.load(segments="birefnet"), "birefnet gives mattes and names no segments: choose"),
        (
            lambda: decoupe.load(SEGMENTS, minmax=True),
            f"{SEGMENTS} gives segments, not mattes: leave minmax,",
        ),
        (lambda: decoupe.load(SEGMENTS, guided=False), f"{SEGMENTS} gives segments, not mattes"),
        (
            lambda: decoupe.load("birefnet", size=1000),
            "size is 1000×1000, expected multiples of 32: use 992×",
        ),
        (
            lambda: decoupe.load("birefnet", memory="x"),
            "memory is 'x', expected bytes or a size: such as 4GB",
        ),
        (lambda: decoupe.cut("nofile.jpg", "birefnet"), "nofile.jpg does not exist: check the path"),
        (
            lambda: decoupe.cut(PICTURE, "birefnet", box=(0, 0, 9, 9)),
            "box is 0,0,9,9, expected .* inside the",
        ),
        (lambda: decoupe.cut(PICTURE, "birefnet", point=(8, 8)), "point is 8,8, expected"),
        (lambda: decoupe.load("birefnet", segments=7), "segments is 7, expected a name or a path: such as"),
        (lambda: decoupe.load(5), "model is 5, expected a name or a path: such as 'birefnet'"),
        (lambda: decoupe.cut(PICTURE, ""), "model is '', expected a name or a path: such as 'birefnet'"),
        (lambda: decoupe.load("birefnet", size=np.array([256, 256])), "size is .*expected a number, "),
        (lambda: decoupe.load(preprocessing=3), "preprocessing is 3, expected a Preprocessing: decoupe.Pre"),
        (lambda: decoupe.cut(PICTURE, runtime=["onnx"]), "unknown runtime .*; did you mean 'onnx'"),
        (lambda: decoupe.cut(PICTURE, what=" "), "what is .*, expected one label or several: such as"),
    ],
)
def test_what_the_catalogue_shows_to_be_wrong_is_told_at_once(
    step: Callable[[], Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "decoupe.weights.download.fetch", lambda spec: pytest.fail(f"{spec.name} was fetched")
    )
    with pytest.raises(InputError, match=problem):
        step()


def test_an_open_model_where_its_name_should_be(tmp_path: Path) -> None:
    predictor = decoupe.load(write_onnx(tmp_path / "tiny.onnx"))
    for step in (decoupe.load, lambda model: decoupe.cut(PICTURE, model)):
        with pytest.raises(InputError, match=r"model is an open model, expected .* call it with the picture"):
            step(predictor)


def test_a_picture_where_a_model_should_be() -> None:
    with pytest.raises(UnknownModelError, match=r"out.png is a picture's name, expected a model"):
        decoupe.cut("photo.jpg", "out.png")


@pytest.mark.parametrize(
    ("given", "model", "segments", "taken"),
    [
        (("cuda", "float16"), "birefnet", None, ("cuda", "float16")),
        (("cuda", "float16"), "birefnet", "a.onnx", (None, None)),
        (("cpu", "bfloat16"), "birefnet", "a.onnx", ("cpu", None)),
        (("cpu", "bfloat16"), "birefnet", "a.xml", ("cpu", None)),
        (("cuda:1", None), "b.onnx", "a.onnx", ("cuda:1", None)),
        (("cuda:1", None), None, "a.onnx", ("cuda:1", None)),
        (("cuda:1", None), "b.onnx", "a.xml", (None, None)),
        ((None, "float32"), "b.onnx", SEGMENTS, (None, "float32")),
    ],
)
def test_the_segment_model_gets_what_it_can_take(
    given: tuple[str | None, str | None],
    model: str | None,
    segments: str | None,
    taken: tuple[str | None, str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b.onnx", "a.xml"):
        Path(name).touch()
    assert shared(*given, model, segments) == taken


def test_a_precision_is_not_forced_on_an_exported_segment_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes in float32, whatever the matte model beside it computes in."""
    segments = write_onnx(tmp_path / "segments.onnx")
    matte = decoupe.load(segments).runtime
    opened: list[dict[str, Any]] = []

    def open_runtime(model: object, **options: Any) -> Any:
        opened.append(options)
        return matte

    monkeypatch.setattr(predictor_module, "open_runtime", open_runtime)
    predictor = decoupe.load("birefnet", dtype="bfloat16", device="cpu", segments=segments)
    with pytest.raises(DecoupeError, match="gives mattes and names no segments"):
        _ = predictor.segmenter
    assert [(each["device"], each["dtype"]) for each in opened] == [("cpu", "bfloat16"), ("cpu", None)]
