"""The catalogue: every model that decoupe knows by name. Plain data; imports no PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias, get_args

from decoupe.errors import ConfigError, InputError, UnknownModelError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EFFICIENTNET_MEAN = (127 / 255, 127 / 255, 127 / 255)
EFFICIENTNET_STD = (128 / 255, 128 / 255, 128 / 255)

Fit: TypeAlias = Literal["stretch", "keep", "shorter", "whole"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input; saved with the weights.

    Attributes:
        size: the model's own input size ``(height, width)`` in pixels.
        fit: ``"stretch"`` resizes to exactly ``size``; ``"keep"`` keeps the aspect ratio, with the area of
            ``size``, each side rounded to ``multiple``; ``"shorter"`` keeps it with the shorter side that of
            ``size``, or less where the longer one would exceed ``longest``, each rounded up; ``"whole"`` is
            the picture's own size, for files that resize by themselves.
        size_range: least and largest side in pixels at which the weights are known to work; predicting
            outside it warns, and above it sees the picture in tiles.
        multiple: both sides of the input are multiples of this many pixels.
        mean: per-channel mean, subtracted from RGB in [0, 1].
        std: per-channel standard deviation, divided by.
        longest: most pixels of the longer side under fit ``"shorter"``; None is any.
        guided: whether the matte of a larger photograph is enlarged along its outlines, with strands that it
            has lost; see `decoupe.inference.guided`.
        two_scale: ``(above, shorter)``: a picture with both sides above the first number is seen twice, at
            ``size`` and at its own size with at most ``shorter`` pixels on its shorter side, and the two are
            blended (InSPyReNet, section 3.3 of its paper); None for models that look once.

    Raises:
        ConfigError: a value that makes no input of a picture.
    """

    size: tuple[int, int]
    fit: Fit = "stretch"
    size_range: tuple[int, int] = (32, 4096)
    multiple: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    longest: int | None = None
    two_scale: tuple[int, int] | None = None
    guided: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that makes no input of a picture."""
        pairs = {
            "size": self.size,
            "size_range": self.size_range,
            "two_scale": (1, 1) if self.two_scale is None else self.two_scale,
        }
        for name, pair in pairs.items():
            if not _are(int, pair, 2) or min(pair) < 1:
                raise ConfigError(f"{name} is {pair!r}, expected two whole numbers above 0 in a tuple")
        longest = 1 if self.longest is None else self.longest
        for name, side in {"multiple": self.multiple, "longest": longest}.items():
            if not _are(int, (side,), 1) or side < 1:
                raise ConfigError(f"{name} is {side!r}, expected a whole number of pixels above 0")
        for name, channels in {"mean": self.mean, "std": self.std}.items():
            if not _are((int, float), channels, 3):
                raise ConfigError(f"{name} is {channels!r}, expected three numbers: (0.5, 0.5, 0.5)")
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}, expected numbers above 0: the picture is divided by them")
        if self.fit not in get_args(Fit):
            raise ConfigError(unknown("fit", str(self.fit), get_args(Fit)))
        if self.size_range[0] > self.size_range[1]:
            raise ConfigError(f"size_range is {self.size_range}, expected the least side first")


def _are(kind: type | tuple[type, ...], values: Any, count: int) -> bool:
    """Whether these are so many numbers of a kind, none of them NaN or infinite."""
    if not isinstance(values, (tuple, list)) or len(values) != count:
        return False
    return all(isinstance(value, kind) for value in values) and all(map(math.isfinite, values))


@dataclass(frozen=True)
class ModelSpec:
    """One row of the catalogue.

    Attributes:
        name: what ``decoupe.load`` takes.
        family: ``"birefnet"``, ``"inspyrenet"``, ``"maskformer"``; empty where only its file can tell.
        task: what it was trained for, in a few words that a user would search for.
        licence: SPDX name, or the licence's own name.
        commercial: whether the licence admits commercial use.
        preprocessing: how a picture becomes the model's input.
        megabytes: size of the weights file as the hub lists it, 10^6 bytes, rounded: parameters times four
            bytes, or two for the checkpoints that were released in half precision.
        repo: hub id ``owner/name``; None for weights that come with the package.
        file: file name in the repository, or in the package's ``weights`` folder.
        revision: the repository's commit, tag or branch; a commit wherever one is known, so that the weights
            behind a name never change.
        sha256: of the file, where it is known here; otherwise the hub's own announced hash is checked.
        backbone: name in `decoupe.backbones.BACKBONES`.
        beside: further files of the repository that belong to the weights, such as the names of classes;
            those of a repository outside the catalogue may be absent.
    """

    name: str
    family: str
    task: str
    licence: str
    commercial: bool
    preprocessing: Preprocessing
    megabytes: float
    repo: str | None
    file: str
    revision: str = "main"
    sha256: str | None = None
    backbone: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogueRow:
    """One model as `catalogue` tells it: the part of a `ModelSpec` that helps to choose.

    Attributes:
        name: what ``decoupe.load`` and ``decoupe cut -m`` take.
        family: ``"birefnet"`` and ``"inspyrenet"`` give mattes, ``"maskformer"`` segments.
        task: what it was trained for.
        size: its input ``(height, width)`` in pixels.
        size_range: least and largest side in pixels at which it is known to work.
        licence: SPDX name, or the licence's own name.
        commercial: whether the licence admits commercial use.
        megabytes: size of the weights file, 10^6 bytes.
        downloaded: whether the file is already on this machine.
        seconds: for one picture here, as ``decoupe bench`` measured; None where it did not.
    """

    name: str
    family: str
    task: str
    size: tuple[int, int]
    size_range: tuple[int, int]
    licence: str
    commercial: bool
    megabytes: float
    downloaded: bool
    seconds: float | None = None


def _trained_at(height: int, width: int) -> Preprocessing:
    """Pictures stretched to the training size; known to work from half to one and a half times its sides.

    The hub's model cards give the measure, weighted F on DIS-VD: at 512² the 1024² weights fall from .875 to
    .789, still useful; the 2048² weights, at a quarter of their side, to .409.
    """
    return Preprocessing(
        size=(height, width), size_range=(min(height, width) // 2, max(height, width) * 3 // 2)
    )


def _released(
    name: str,
    repository: str,
    task: str,
    megabytes: float,
    preprocessing: Preprocessing,
    *,
    revision: str,
    sha256: str | None = None,
    backbone: str = "swin_l",
) -> ModelSpec:
    """A checkpoint of BiRefNet's authors: one ``model.safetensors`` in a repository of ZhengPeng7, MIT."""
    return ModelSpec(
        name=name,
        family="birefnet",
        task=task,
        licence="MIT",
        commercial=True,
        preprocessing=preprocessing,
        megabytes=megabytes,
        repo=f"ZhengPeng7/{repository}",
        file="model.safetensors",
        revision=revision,
        sha256=sha256,
        backbone=backbone,
    )


def _inspyrenet(name: str, task: str, side: int, file: str, sha256: str | None = None) -> ModelSpec:
    """A checkpoint of InSPyReNet's author for transparent-background: Swin-B, one look at a square."""
    return ModelSpec(
        name=name,
        family="inspyrenet",
        task=task,
        licence="MIT",
        commercial=True,
        preprocessing=_trained_at(side, side),
        megabytes=368,
        repo="plemeri/InSPyReNet",
        file=file,
        sha256=sha256,
        backbone="swin_b",
    )


def _maskformer(backbone: str, data: str, megabytes: float, file: str = "model.safetensors") -> ModelSpec:
    """A checkpoint of MaskFormer's authors in transformers' format, for research only."""
    coco = data == "coco"
    tasks = {
        "ade": "what is where, indoors and outdoors: 150 classes",
        "coco": "what is where, each object for itself: 133 classes",
        "coco-stuff": "what is where, objects and surfaces: 171 classes",
    }
    large = backbone in ("swin-base", "swin-large")
    shorter, longest = (800, 1333) if coco else (640, 2560) if large else (512, 2048)
    return ModelSpec(
        name=f"maskformer-{backbone}-{data}",
        family="maskformer",
        task=tasks[data],
        licence="other: research only (facebook/maskformer)",
        commercial=False,
        preprocessing=Preprocessing(
            size=(shorter, shorter), fit="shorter", longest=longest, size_range=(shorter // 2, longest)
        ),
        megabytes=megabytes,
        repo=f"facebook/maskformer-{backbone}-{data}",
        file=file,
        backbone=_MASKFORMER_BACKBONES[backbone],
        beside=("config.json",),
    )


_MASKFORMER_BACKBONES = {
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "swin-tiny": "swin_t",
    "swin-small": "swin_s",
    "swin-base": "swin_b",
    "swin-large": "swin_l",
}

_AT_512 = _trained_at(512, 512)
_AT_1024 = _trained_at(1024, 1024)
_AT_2048 = _trained_at(2048, 2048)
_AT_2560X1440 = _trained_at(1440, 2560)
_AT_ANY = Preprocessing(size=(1024, 1024), fit="keep", size_range=(256, 2304))

_MODELS = (
    ModelSpec(
        name="pocket",
        family="birefnet",
        task="anything in the foreground, small and quick, comes with decoupe",
        licence="MIT and Apache-2.0 (weights trained on research-only photographs)",
        commercial=False,
        preprocessing=Preprocessing(
            size=(384, 384),
            fit="keep",
            size_range=(224, 640),
            mean=EFFICIENTNET_MEAN,
            std=EFFICIENTNET_STD,
            guided=True,
        ),
        megabytes=9,
        repo=None,
        file="pocket.onnx",
        backbone="efficientnet_lite0",
        sha256="7fc0a51366d75e6aca9e4394917d77ec062e24e2d4d420830c81540462d83017",
    ),
    _released(
        "birefnet",
        "BiRefNet",
        "anything in the foreground; the one to begin with",
        444,
        _AT_1024,
        revision="e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4",
        sha256="9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154",
    ),
    _released(
        "birefnet-lite",
        "BiRefNet_lite",
        "anything in the foreground, a fifth of the parameters",
        178,
        _AT_1024,
        revision="7838f1c3472f827cd8ce13ab5ccc2ce48077360f",
        sha256="4417d89795250e698c3cb0ae8df15743810065f646f48a694fdfa7ca052d0815",
        backbone="swin_t",
    ),
    _released(
        "birefnet-lite-2k",
        "BiRefNet_lite-2K",
        "anything in the foreground, large landscape pictures",
        178,
        _AT_2560X1440,
        revision="580b1256cd48294d77201a7b18c7dd81964969ab",
        sha256="aa2e4a5af5eb3904694feb40f2b39ec5dd7cd9110906590cfeb982f09a46021d",
        backbone="swin_t",
    ),
    _released(
        "birefnet-matting",
        "BiRefNet-matting",
        "hair, fur and glass: soft edges",
        885,
        _AT_1024,
        revision="57f9f68b43ba337c75762b14cf3075d659007268",
        sha256="a9875de5b1e6c8eb5fdaa8c727a82927ce442cdc87ba3abee6a77e6fa46c25bb",
    ),
    _released(
        "birefnet-portrait",
        "BiRefNet-portrait",
        "portraits of people, with soft edges",
        885,
        _AT_1024,
        revision="ecdeb6240ef23557dbd48ff27c59c1a88cbcb755",
    ),
    _released(
        "birefnet-dis5k",
        "BiRefNet-DIS5K",
        "fine structures, the DIS5K benchmark (trained on DIS-TR)",
        885,
        _AT_1024,
        revision="032e837020877028d8f4210dc1bd7371abdc7f98",
        sha256="6641691e0484f458e1f72ec15ecf2856c07de1bd9500a05895ba57f9b9da7bee",
    ),
    _released(
        "birefnet-dis5k-tr-tes",
        "BiRefNet-DIS5K-TR_TEs",
        "fine structures (trained on DIS-TR and the DIS test sets)",
        885,
        _AT_1024,
        revision="487f440314ea7ab8ea7d184861953a4010b55587",
    ),
    _released(
        "birefnet-cod",
        "BiRefNet-COD",
        "camouflaged animals and objects",
        885,
        _AT_1024,
        revision="f648b6efa109baf9da3d597ffb43bc60df6cf24b",
        sha256="6c321deba6f15147f325566d0470e75e7258bf481f5e0b6c667659530d40019e",
    ),
    _released(
        "birefnet-hrsod",
        "BiRefNet-HRSOD",
        "salient objects in large pictures",
        885,
        _AT_1024,
        revision="9c64804471c4266336c4b7638626e0301e04250d",
        sha256="dcc61b9f2074f5d4cb36c022c060543359047811cab426aa6dfa8a48f5034b8c",
    ),
    _released(
        "birefnet-hr",
        "BiRefNet_HR",
        "anything in the foreground, pictures of 2 megapixels and more",
        444,
        _AT_2048,
        revision="a7a562f6fd16021180f2f4348f4de003a2d3d1e1",
        sha256="9d678bafec0b0019fbb073b7fd02f05ede25dc4b15254f23b2fb0be333200c0d",
    ),
    _released(
        "birefnet-hr-matting",
        "BiRefNet_HR-matting",
        "soft edges, pictures of 2 megapixels and more",
        444,
        _AT_2048,
        revision="5d6b6f8adcb5b417c871b1d84ceaae9871355b7f",
        sha256="a5a4de698739ea5e0e8bbab28e1b293dde95092b87a442d566cbc585c53cef55",
    ),
    _released(
        "birefnet-dynamic",
        "BiRefNet_dynamic",
        "anything in the foreground, at any size and aspect ratio",
        444,
        _AT_ANY,
        revision="280306042f57b7a33854319da62fd86aaa89ec4c",
        sha256="e3d2e4884e51ff30f0cd630edc6b1e41b06b7f23a0a2a5169f7b7cb33a711c2d",
    ),
    _released(
        "birefnet-512",
        "BiRefNet_512x512",
        "anything in the foreground, small pictures, quicker",
        444,
        _AT_512,
        revision="main",
    ),
    _released(
        "birefnet-lite-matting",
        "BiRefNet_lite-matting",
        "soft edges, a tenth of the size",
        89,
        _AT_1024,
        revision="99c33412e3f58e1f33187abdc8c435c645243690",
        sha256="ce8bcfc045e336322c0424a5863dcfb7e9ce8fed0a5fd4d1b2b20adf12d97243",
        backbone="swin_t",
    ),
    _released(
        "birefnet-legacy",
        "BiRefNet-legacy",
        "anything in the foreground, the earlier weights without portraits",
        885,
        _AT_1024,
        revision="62fffc4c59b029946ef3aa2e4e28b38f5669d603",
        sha256="40e4ef76d28bc11380c7833fb2a834c327a90fae698797fca3c2afbf9d9a42cc",
    ),
    ModelSpec(
        name="rmbg-2.0",
        family="birefnet",
        task="anything in the foreground, stock and product pictures",
        licence="CC-BY-NC-4.0",
        commercial=False,
        preprocessing=_AT_1024,
        megabytes=885,
        repo="briaai/RMBG-2.0",
        file="model.safetensors",
        revision="5df4c9c76d8170882c34f6986e848ee07fd0ba43",
        sha256="566ed80c3d95f87ada6864d4cbe2290a1c5eb1c7bb0b123e984f60f76b02c3a7",
        backbone="swin_l",
    ),
    ModelSpec(
        name="toonout",
        family="birefnet",
        task="drawn and anime characters",
        licence="MIT",
        commercial=True,
        preprocessing=_AT_1024,
        megabytes=885,
        repo="joelseytre/toonout",
        file="birefnet_finetuned_toonout.pth",
        revision="cbf720eca394edcde66b861a8a8c20fbabe9c748",
        sha256="8c7f8a0bc24400f4caade76622f75ff22ca1e93e169add9d2b70093e2487fbe5",
        backbone="swin_l",
    ),
    _inspyrenet(
        "inspyrenet",
        "anything in the foreground, trained on every public saliency set",
        1024,
        "ckpt_base.pth",
        sha256="0a6fe2a73ab0532d6d0b8d82849a9760a226df719e3063d09b4149ece6f80fcd",
    ),
    _inspyrenet(
        "inspyrenet-fast",
        "anything in the foreground, small pictures, quicker",
        384,
        "ckpt_fast.pth",
        sha256="e61ed7e85763dd83a796e1d650ea78604fff524121750858c54a6b560ac58c82",
    ),
    _inspyrenet(
        "inspyrenet-nightly", "anything in the foreground, later weights", 1024, "ckpt_base_nightly.pth"
    ),
    _maskformer("swin-tiny", "coco", 167),
    _maskformer("swin-small", "coco", 253),
    _maskformer("swin-base", "coco", 411),
    _maskformer("swin-large", "coco", 850),
    _maskformer("swin-tiny", "ade", 167),
    _maskformer("swin-small", "ade", 253),
    _maskformer("swin-base", "ade", 411),
    _maskformer("swin-large", "ade", 850),
    _maskformer("resnet50", "ade", 166, file="pytorch_model.bin"),
    _maskformer("resnet101", "ade", 242, file="pytorch_model.bin"),
    _maskformer("resnet101", "coco-stuff", 242),
)

MatteName: TypeAlias = Literal[
    "pocket",
    "birefnet",
    "birefnet-lite",
    "birefnet-lite-2k",
    "birefnet-matting",
    "birefnet-portrait",
    "birefnet-dis5k",
    "birefnet-dis5k-tr-tes",
    "birefnet-cod",
    "birefnet-hrsod",
    "birefnet-hr",
    "birefnet-hr-matting",
    "birefnet-dynamic",
    "birefnet-512",
    "birefnet-lite-matting",
    "birefnet-legacy",
    "rmbg-2.0",
    "toonout",
    "inspyrenet",
    "inspyrenet-fast",
    "inspyrenet-nightly",
]
"""Names of `CATALOGUE` whose models give mattes, for type checkers and editors."""

SegmentName: TypeAlias = Literal[
    "maskformer-swin-tiny-coco",
    "maskformer-swin-small-coco",
    "maskformer-swin-base-coco",
    "maskformer-swin-large-coco",
    "maskformer-swin-tiny-ade",
    "maskformer-swin-small-ade",
    "maskformer-swin-base-ade",
    "maskformer-swin-large-ade",
    "maskformer-resnet50-ade",
    "maskformer-resnet101-ade",
    "maskformer-resnet101-coco-stuff",
]
"""Those of models that give segments."""


CATALOGUE: dict[str, ModelSpec] = {model.name: model for model in _MODELS}
DEFAULT_MODEL = "pocket"
DEFAULT_SEGMENT_MODEL = "maskformer-swin-base-coco"
SEGMENT_FAMILIES = ("maskformer",)
"""Families whose models name segments; those of the others give mattes."""

SUITED: dict[str, tuple[str, ...]] = {
    "anything": ("birefnet", "birefnet-dynamic", "birefnet-lite", "inspyrenet", "pocket"),
    "products": ("birefnet", "rmbg-2.0", "birefnet-hr", "inspyrenet", "birefnet-lite"),
    "people": ("birefnet-portrait", "birefnet-matting", "birefnet"),
    "portraits": ("birefnet-portrait", "birefnet-matting", "birefnet"),
    "hair": ("birefnet-matting", "birefnet-portrait", "birefnet-hr-matting", "birefnet-lite-matting"),
    "fur": ("birefnet-matting", "birefnet-hr-matting", "birefnet-lite-matting"),
    "glass": ("birefnet-matting", "birefnet-hr-matting"),
    "large pictures": ("birefnet-hr", "birefnet-hr-matting", "birefnet-lite-2k", "birefnet-hrsod"),
    "fine structures": ("birefnet-dis5k-tr-tes", "birefnet-dis5k", "birefnet-hr"),
    "camouflage": ("birefnet-cod",),
    "drawings": ("toonout",),
    "speed": ("pocket", "birefnet-512", "birefnet-lite", "inspyrenet-fast"),
    "what is where": ("maskformer-swin-base-coco", "maskformer-swin-tiny-coco", "maskformer-swin-base-ade"),
}
"""Models for a need, the best first: by the tasks they were trained for, as their authors tell them."""

_REMBG = {
    "u2net": "pocket",
    "u2netp": "pocket",
    "silueta": "pocket",
    "isnet-general-use": "birefnet",
    "birefnet-general": "birefnet",
    "birefnet-massive": "birefnet",
    "birefnet-general-lite": "birefnet-lite",
    "birefnet-dis": "birefnet-dis5k",
    "u2net_human_seg": "birefnet-portrait",
    "isnet-anime": "toonout",
    "bria-rmbg": "rmbg-2.0",
}
"""What rembg calls its models, and what is nearest to each here."""

# As the hub's library checks it.
_HUB_ID = re.compile(r"(?!.{97}|.*(--|\.\.|\.git$))\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
# Of a path, not of a repository; in lower case.
WEIGHTS_SUFFIXES = (".bin", ".onnx", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".xml")
IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
"""As transformers' ``save_pretrained`` names them; with ``.index.json`` behind where there are several."""


def weights_in(folder: Path) -> Path | None:
    """The weights file of a folder that transformers wrote, or None."""
    return next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), None)


def spec(name: str, own: Iterable[str] = ()) -> ModelSpec:
    """The catalogue's row called ``name``, or a row made up for a hub repository that it does not list.

    Args:
        name: short name (``"birefnet"``) or hub id (``"ZhengPeng7/BiRefNet"``, ``"me/my-BiRefNet"``). Of a
            repository outside the catalogue the file ``model.safetensors`` is taken; its family is found out
            from the names of its tensors.
        own: further names to suggest.

    Raises:
        UnknownModelError: no model of that name; the message suggests the nearest.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    for model in _MODELS:
        if model.repo is not None and model.repo.lower() == name.lower():
            return model
    if _HUB_ID.fullmatch(name) and PurePath(name).suffix.lower() not in WEIGHTS_SUFFIXES:
        return ModelSpec(
            name=name,
            family="",
            task="unknown: not in the catalogue",
            licence="unknown",
            commercial=False,
            preprocessing=_AT_1024,
            megabytes=0,
            repo=name,
            file="model.safetensors",
            beside=("config.json", "preprocessor_config.json"),
        )
    if name in _REMBG:
        raise UnknownModelError(
            f"unknown model {name!r}, which is rembg's: take {_REMBG[name]!r}, or give its .onnx file"
        )
    raise UnknownModelError(unknown("model", name, (*own, *CATALOGUE)))


def suited(need: str) -> list[CatalogueRow]:
    """The models for a need of `SUITED`, the best first; InputError suggests the nearest need."""
    if need not in SUITED:
        raise InputError(unknown("need", need, SUITED))
    rows = {row.name: row for row in catalogue()}
    return [rows[name] for name in SUITED[need]]


def catalogue() -> list[CatalogueRow]:
    """Every known model, the embedded default first."""
    from decoupe.weights.download import cached_path  # download imports this module
    from decoupe.weights.timings import timings

    measured = timings()
    return [
        CatalogueRow(
            name=model.name,
            family=model.family,
            task=model.task,
            size=model.preprocessing.size,
            size_range=model.preprocessing.size_range,
            licence=model.licence,
            commercial=model.commercial,
            megabytes=model.megabytes,
            downloaded=cached_path(model) is not None,
            seconds=measured[model.name].seconds if model.name in measured else None,
        )
        for model in _MODELS
    ]
