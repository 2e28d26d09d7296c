"""What ``decoupe doctor`` checks: what is installed, what really works, and what the missing would bring."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from decoupe.errors import DecoupeError

WIDTH = 16
LIBRARIES = ("numpy", "pillow", "onnxruntime", "huggingface_hub", "safetensors", "torch", "torchvision")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        finding: what there is, and the remedy where something is wrong.
        ok: False where something that is there does not work; what is merely not installed is fine.
    """

    name: str
    finding: str
    ok: bool = True


@dataclass(frozen=True)
class Extra:
    """An optional part of the installation.

    Attributes:
        module: what can be imported once it is installed.
        brings: what it makes possible.
        megabytes: what it takes on disk, 10^6 bytes, as measured on Linux x86-64 with the packages of PyPI
            (PyTorch's bring CUDA), without what it shares with the others.
    """

    module: str
    brings: str
    megabytes: int


EXTRAS = {
    "torch": Extra("torch", "every model of `decoupe models`, on CPU, CUDA and MPS", 5300),
    "timm": Extra("timm", "DINOv3 backbones", 20),
    "server": Extra("uvicorn", "decoupe serve and decoupe ui", 15),
    "eval": Extra("py_sod_metrics", "decoupe eval", 500),
    "train": Extra("accelerate", "training", 65),
    "matting": Extra("pymatting", "hair solved anew: `decoupe cut --matting`", 350),
    "heic": Extra("pillow_heif", "HEIC photographs", 27),
    "video": Extra("av", "decoupe video", 110),
    "batch": Extra("ray", "decoupe.batch: millions of pictures, on many machines", 500),
    "export": Extra("onnxscript", "trained models as .onnx files", 45),
    "openvino": Extra("openvino", "`decoupe export` to .xml files, and models in them", 185),
}


def examine() -> Iterator[Check]:
    """Every check, in the order of the report; each is made when it is asked for."""
    yield Check("decoupe", _version("decoupe") or "not installed")
    yield Check("Python", f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    for library in LIBRARIES:
        yield Check(library, _version(library) or "not installed")
    yield from map(_onnx_device, ("cpu", "cuda"))
    yield from _torch_devices()
    yield _told("cache", _cache)
    for name, extra in EXTRAS.items():
        if importlib.util.find_spec(extra.module) is None:
            remedy = f"pip install 'decoupe[{name}]', about {extra.megabytes} MB"
            yield Check(f"extra {name}", f"not installed; brings {extra.brings}: {remedy}")
    yield _told("default model", _default_model)
    yield _told("finer models", _finer_models)


def _told(name: str, check: Callable[[], Check]) -> Check:
    """A check, and what decoupe has to say against it."""
    try:
        return check()
    except DecoupeError as error:
        return Check(name, str(error), ok=False)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        pass
    # ONNX Runtime for CUDA is a distribution of another name.
    for other in importlib.metadata.packages_distributions().get(library, ()):
        return f"{importlib.metadata.version(other)} ({other})"
    return None


def _onnx_device(device: str) -> Check:
    """Whether ONNX Runtime opens the default model there; a machine without CUDA is fine too."""
    from decoupe.runtimes import open_runtime

    try:
        opened = open_runtime(None, device=device)
    except DecoupeError as error:
        return Check(f"ONNX on {device}", str(error), ok=device != "cpu")
    return Check(f"ONNX on {device}", f"works, in {opened.dtype}")


def _torch_devices() -> Iterator[Check]:
    """Devices that compute a sum, not only claim to exist."""
    if importlib.util.find_spec("torch") is None:
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(
            "torch", f"cannot be imported ({str(error).partition(chr(10))[0]}): reinstall it", ok=False
        )
        return
    try:
        import torchvision  # noqa: F401 - deformable convolution, in training and export
    except ModuleNotFoundError:
        remedy = "training and export need it: pip install torchvision"
        yield Check("torchvision", f"not installed, and {remedy}", ok=False)
    except (ImportError, OSError, RuntimeError) as error:  # made for another release of PyTorch
        reason = str(error).partition("\n")[0]
        remedy = "install the release that belongs to this PyTorch"
        yield Check("torchvision", f"does not work ({reason}): {remedy}", ok=False)
    from decoupe.memory import free, shown
    from decoupe.runtimes.checkpoints import EXACT, torch_dtype

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    for device in devices:
        try:
            total = torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum().item()
        except RuntimeError as error:
            yield Check(f"torch on {device}", f"does not work ({str(error).splitlines()[0]})", ok=False)
            continue
        about = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
        chosen = torch_dtype("auto", torch.device(device))
        exact = "" if chosen == "float32" else f" ({', '.join(EXACT)}: float32)"
        works = (
            f"works{about}; computes in {chosen}{exact} unless told, {shown(free(device))} of memory are free"
        )
        yield Check(f"torch on {device}", works if total == 512 else "computes wrong", total == 512)
    if len(devices) == 1:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
        yield Check("torch on cuda", f"no CUDA device; this PyTorch is built for {built}")


def _cache() -> Check:
    from decoupe.weights.download import cache_dir, cached_path, standing
    from decoupe.weights.registry import CATALOGUE

    folder = cache_dir()
    here = [path for model in CATALOGUE.values() if model.repo and (path := cached_path(model))]
    used = sum(path.stat().st_size for path in here) / 1e9
    existing = standing(folder)
    if existing is None:
        return Check("cache", f"{folder} is on a disk that is not there: set DECOUPE_CACHE", ok=False)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "cannot be written in" if existing.is_dir() else "is a file"
        return Check(
            "cache", f"{existing} {what}, so no model can be downloaded: set DECOUPE_CACHE", ok=False
        )
    free = shutil.disk_usage(existing).free / 1e9
    return Check("cache", f"{folder}: {len(here)} models, {used:.1f} GB; {free:.1f} GB free on its disk")


def _default_model() -> Check:
    """One small picture through the embedded default model."""
    import numpy as np

    from decoupe.inference.predictor import load

    begun = time.perf_counter()
    predictor = load()
    matte = predictor(np.full((64, 48, 3), 128, np.uint8))
    works = matte.alpha.shape == (64, 48)
    took = time.perf_counter() - begun
    return Check("default model", f"{predictor.describe()}: works, opened and run in {took:.2f} s", works)


def _finer_models() -> Check:
    """Which of the models that are better than the small default are here already."""
    from decoupe.weights.download import cached_path
    from decoupe.weights.registry import CATALOGUE, DEFAULT_MODEL, SUITED

    finer = [name for name in SUITED["anything"] if name != DEFAULT_MODEL]
    here = [name for name in finer if cached_path(CATALOGUE[name])]
    if here:
        return Check("finer models", f"{', '.join(here)}: better than the small default, -m {here[0]}")
    lite = CATALOGUE["birefnet-lite"]
    remedy = f"decoupe get {lite.name}, {lite.megabytes:.0f} MB"
    return Check("finer models", f"none here; the default is small and quick, and errs more: {remedy}")
