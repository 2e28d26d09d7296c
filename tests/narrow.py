"""Models of fewer parts and narrower ones, for tests whose cost grows with them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from itertools import chain

import pytest
from torch import nn

from decoupe import backbones
from decoupe.backbones.efficientnet import EfficientNetLite
from decoupe.backbones.res2net import Res2Net
from decoupe.backbones.resnet import ResNet
from decoupe.backbones.swin import Swin, SwinConfig
from decoupe.models import InSPyReNet


class NarrowRes2Net(Res2Net):
    channels = (32, 64, 128, 256)
    WIDTH = 4
    DILATIONS = (1, 1), (1, 1), (2, 2), (4, 8)


NARROW = {
    "swin_t": functools.partial(Swin, SwinConfig(dim=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))),
    "res2net50": NarrowRes2Net,
    "resnet50": functools.partial(ResNet, (2, 2, 2, 2)),
}


@contextlib.contextmanager
def narrow_backbones() -> Iterator[None]:
    """While a model is built; real ones have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, backbone in NARROW.items():
            patch.setitem(backbones.BACKBONES, name, backbone)
        yield


def fewer_parts(model: nn.Module) -> nn.Module:
    """Without most repeats of one class, for what costs by the part.

    Of an InSPyReNet, one branch of one encoder attends, and a stage has one block; of an EfficientNet, most
    have one.
    """
    if isinstance(model, InSPyReNet):
        for index, encoder in enumerate(model.encoders):
            plain, attending, *rest = encoder.branches
            encoder.branches = nn.ModuleList([plain, plain if index else attending, *(plain for _ in rest)])
        for stage in model.backbone.stages:
            del stage[2:]
    elif isinstance(model.encoder.backbone, EfficientNetLite):
        for blocks in chain.from_iterable(model.encoder.backbone.stages[1:]):
            del blocks[1:]
    return model
