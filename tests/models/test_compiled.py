"""Compiled models: the same numbers, told once, and computed as they are where there is no compiler."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import decoupe
from decoupe import CompileWarning
from decoupe.backbones.nano import Nano
from decoupe.models import BiRefNet, BiRefNetConfig
from decoupe.models.compiled import Compiled
from decoupe.weights.checkpoint import save_model
from inference.tiny import STRETCH

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
SMALL = BiRefNetConfig(
    "nano", "none", squeeze="aspp_deformable", context="none", context_width=8, outward=False
)


@pytest.fixture(autouse=True)
def _compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # pytest listens to every logger: this one would write down each graph in full.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A deformable BiRefNet with weights drawn at random, of one residual block: compiling costs by parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nano, "DEPTHS", (1, 0, 0, 0))
        torch.manual_seed(0)
        model = BiRefNet(SMALL).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.05)
        path = tmp_path_factory.mktemp("small") / "small.safetensors"
        save_model(model, path, family="birefnet", preprocessing=STRETCH)
        yield path


def test_a_compiled_model_gives_the_same_and_tells_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced and made of plain operators, but no kernels are built: that takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    wanted = decoupe.load(small, device="cpu", dtype="float32")(PICTURE).alpha
    compiled = decoupe.load(small, device="cpu", dtype="float32", compile=True)
    with pytest.warns(CompileWarning, match=r"is compiled for 1×3×64×96: this picture takes minutes") as told:
        found = compiled(PICTURE).alpha
    assert told[0].filename == __file__
    assert np.abs(found - wanted).max() <= 1e-4 * wanted.std()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(compiled(PICTURE).alpha, found)


def test_without_a_compiler_it_computes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "fx_graph_cache", False)  # nobody has compiled it before
    module, image = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), torch.ones(1, 3, 4, 4)
    compiled = Compiled(module, "tiny")
    with torch.inference_mode():
        with pytest.warns(CompileWarning) as told:
            found = compiled(image)
        assert len(told) == 2
        line = str(told[1].message)
        assert re.fullmatch(r"tiny cannot be compiled here \(.*\): computed as it is; install .*", line)
        torch.testing.assert_close(found, module(image), rtol=0, atol=0)
        torch.testing.assert_close(compiled(image), found, rtol=0, atol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_compiling_on_cuda(small: Path, dtype: str) -> None:
    wanted = decoupe.load(small, device="cuda", dtype=dtype)(PICTURE).alpha
    compiled = decoupe.load(small, device="cuda", dtype=dtype, compile=True)
    with pytest.warns(CompileWarning):
        first = compiled(PICTURE).alpha
    other = compiled(np.ascontiguousarray(PICTURE[::-1])).alpha
    replayed = compiled(PICTURE).alpha
    near = 1e-4 if dtype == "float32" else 1e-2
    assert np.abs(other - replayed).max() > near
    assert np.abs(first - replayed).max() <= near
    assert np.abs(first - wanted).max() <= near
    for matte in compiled.map([PICTURE] * 3, batch_size=3):
        assert np.abs(matte.alpha - wanted).max() <= near
