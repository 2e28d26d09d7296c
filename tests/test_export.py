from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from contract import picture, with_statistics
from decoupe import export
from decoupe.errors import ConfigError, OutputError
from decoupe.models import BiRefNet
from decoupe.models.birefnet import PRESETS
from decoupe.models.fuse import fold_batch_norm
from decoupe.weights.registry import Preprocessing

PREPROCESSING = Preprocessing((320, 320), "keep", (64, 1024))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return with_statistics(BiRefNet(PRESETS["pocket"]))


@pytest.fixture(scope="module")
def file(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "pocket.onnx"
    report = export.export_onnx(
        model, path, preprocessing=PREPROCESSING, metadata={"name": "tiny"}, half_weights=True
    )
    assert len({row.shape for row in report}) == 3
    assert max(row.largest for row in report) <= export.PARITY
    return path


@pytest.fixture(scope="module")
def program(model: torch.nn.Module) -> Any:
    return export.trace(export.MatteGraph(fold_batch_norm(model)), PREPROCESSING)


@pytest.fixture
def traced(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds: what comes after it needs it only once."""
    monkeypatch.setattr(export, "trace", lambda *_: copy.deepcopy(program))


def test_other_sizes_and_batches_run_with_the_models_numbers(model: torch.nn.Module, file: Path) -> None:
    """Weights in half precision change the alpha by no more than their rounding."""
    session = onnxruntime.InferenceSession(file)
    image = picture(2, 128, 96)
    with torch.inference_mode():
        expected = model(image).logits.sigmoid().numpy()
    found = session.run(None, {"image": image.numpy()})[0]
    assert found.shape == (2, 1, 128, 96)
    assert np.abs(found - expected).max() < 2e-3


def test_the_file_tells_what_it_needs(file: Path) -> None:
    stored = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert stored["decoupe.name"] == "tiny"
    assert Preprocessing(**json.loads(stored["decoupe.preprocessing"])).fit == "keep"
    assert b"/work/" not in file.read_bytes()
    assert file.stat().st_size < 10e6


def test_the_callers_model_stays_as_it_is(model: torch.nn.Module, tmp_path: Path) -> None:
    mine = copy.deepcopy(model).train()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    export.export_onnx(mine, tmp_path / "a.onnx", preprocessing=PREPROCESSING, metadata={}, half_weights=True)
    assert mine.training
    assert mine.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.usefixtures("traced")
def test_a_file_that_gives_no_numbers_is_not_written(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [export.Parity((1,), difference, 0.0) for difference in (1e-9, float("nan"))]
    monkeypatch.setattr(export, "parity", lambda *_: rows)
    with pytest.raises(ConfigError, match="differs from torch by nan"):
        export.export_onnx(model, tmp_path / "a.onnx", preprocessing=PREPROCESSING, metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_a_file_that_differs_is_not_written(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PARITY", 0.0)
    with pytest.raises(ConfigError, match="differs from torch"):
        export.export_onnx(model, tmp_path / "a.onnx", preprocessing=PREPROCESSING, metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_an_output_that_cannot_be_written(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        export.export_onnx(model, tmp_path / "no" / "a.onnx", preprocessing=PREPROCESSING, metadata={})
