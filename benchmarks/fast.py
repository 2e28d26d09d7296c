"""Whole jobs on a CPU, plain and fast: a photograph in, its alpha or its segments out, batch 1.

    python benchmarks/fast.py [MODEL ...] [--forms float32] [--repeats 3] [--threads 2] [--reference DIR]
    python benchmarks/fast.py birefnet-lite --growth [--plot docs/growth.png]
    python benchmarks/fast.py [MODEL ...] --profile

MODEL is a preset of decoupe.models. Weights are drawn at random, the offsets of deformable convolutions with
the spread that training gives them. "plain" is the model as it was trained, in float32, with torchvision's
operator for deformable convolution, as the official repositories compute; "float32" and "bfloat16" are what
`decoupe.load` gives. The forms take turns in one process; each one's peak memory is that of a process of its
own. Where transparent-background or transformers is installed, its network runs beside, on the input that
ours gets; so does that of DIR, a checkout of the official BiRefNet, with the same weights: then differences
are from it. --forms leaves out of this comparison what it does not name beside "plain", as bfloat16, which
takes minutes where the processor has no instructions for it.

--growth computes squares of 512 to 2048 pixels instead. --profile tells in which operators the seconds of the
fast forms go.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `decoupe.load` sets it, for plain forms too

import torch
from PIL import Image
from torch import Tensor, nn

import decoupe
from decoupe.layers.deform import DeformConv2d
from decoupe.layers.linear import linear
from decoupe.models import MODELS, birefnet, inspyrenet, maskformer
from decoupe.weights.birefnet_names import BACKBONE_NAMES
from decoupe.weights.checkpoint import save_model
from decoupe.weights.convert import from_reference
from decoupe.weights.labels import ADE20K, NO_NAMES
from decoupe.weights.registry import CATALOGUE
from machine import machine, median_times, memory_of, parser_of, print_table, versions

PRESETS = {"birefnet": birefnet.PRESETS, "inspyrenet": inspyrenet.PRESETS, "maskformer": maskformer.PRESETS}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"dtype": "float32", "fuse": False},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
}
PHOTOGRAPH = Path(__file__).parents[1] / "examples" / "coffee.jpg"
DEFAULT = ("birefnet-lite", "birefnet", "inspyrenet", "maskformer-swin-tiny-ade")
SIZES = (512, 768, 1024, 1536, 2048)


@functools.cache
def photograph() -> bytes:
    """The example picture at the size of a photograph, as a file."""
    file = io.BytesIO()
    with Image.open(PHOTOGRAPH) as image:
        image.resize((2400, 1600), Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
    return file.getvalue()


def drawn(name: str) -> tuple[str, nn.Module]:
    """The family and the model of a preset, its weights drawn at random."""
    family = next(family for family, presets in PRESETS.items() if name in presets)
    torch.manual_seed(0)
    model = MODELS[family][1](PRESETS[family][name]).eval()
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            spread_(module.offset.weight)
    return family, model


def official(name: str, checkout: Path) -> nn.Module:
    """The network of a checkout of the official BiRefNet, its weights drawn at random.

    Its configuration is code: the backbone is chosen by the index of a list.
    """
    backbones = {ours: theirs for theirs, ours in BACKBONE_NAMES.items()}
    chosen = backbones[PRESETS["birefnet"][name].backbone]
    source, found = re.subn(
        r"(self\.bb = )\[[^\]]*\]\[\d+\]", rf"\1{chosen!r}", (checkout / "config.py").read_text()
    )
    if found != 1:
        sys.exit(f"{checkout}/config.py does not choose self.bb from a list: give a checkout of BiRefNet")
    for module in [module for module in sys.modules if module == "config" or module.startswith("models")]:
        del sys.modules[module]  # of the model before
    config = sys.modules["config"] = types.ModuleType("config")
    exec(compile(source, checkout / "config.py", "exec"), config.__dict__)
    sys.path.insert(0, str(checkout))
    torch.manual_seed(0)
    network: nn.Module = importlib.import_module("models.birefnet").BiRefNet(bb_pretrained=False).eval()
    sys.path.remove(str(checkout))
    for key, tensor in network.named_parameters():
        if key.endswith("offset_conv.weight"):
            spread_(tensor)
    return network


def spread_(weight: Tensor) -> None:
    """Draw a predictor of offsets such that they spread as training leaves them."""
    bound = 1.5 * (3 / weight[0].numel()) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


def written(name: str, folder: str, network: nn.Module | None = None, *, most: int = 0) -> Path:
    """The preset's weights file, as a user has one; its weights are those of ``network`` if there is one.

    Sides up to ``most`` are said to be known, so that no picture of them is seen in tiles.
    """
    family, model = drawn(name)
    if network is not None:
        config = PRESETS[family][name]
        model = from_reference(family, dict(network.state_dict()), config)
    path = Path(folder, f"{name}.safetensors")
    names = ADE20K if family == "maskformer" else NO_NAMES
    preprocessing = CATALOGUE[name].preprocessing
    known = preprocessing.size_range[0], max(preprocessing.size_range[1], most)
    preprocessing = dataclasses.replace(preprocessing, size_range=known)
    save_model(model, path, family=family, preprocessing=preprocessing, vocabulary=names)
    return path


def opened(path: Path, form: str, size: int | None) -> Any:
    """The predictor of a form."""
    predictor = decoupe.load(path, device="cpu", size=size, **FORMS[form])
    if form == "plain":
        for module in predictor.runtime.module.modules():
            if isinstance(module, DeformConv2d):
                module.method = "torchvision"
    return predictor


def peak(model: Path | str, form: str, size: object, threads: int) -> float:
    """GB that a process holds at most which loads the model and computes one picture.

    Args:
        model: its file; of form "peer" the preset's name.
        form: one of `FORMS`, or "peer".
        size: as `load` takes it; of form "peer" the input's, ``HxW``.
        threads: to compute with.
    """
    command = [sys.executable, __file__, "--peak", str(model), form, str(size), "--threads", str(threads)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(ran.stdout) / 1e9


def one(model: str, form: str, size: str) -> None:
    """Compute one picture; run in a process of its own, see `peak`."""
    if form != "peer":
        opened(Path(model), form, int(size) or None)(photograph())
        return
    found = peer(model, [torch.zeros(1, 3, *map(int, size.split("x")))])
    assert found is not None
    with torch.inference_mode():
        found[1]()


def operations(name: str, shapes: list[tuple[int, ...]]) -> float:
    """Floating-point operations of the plain model."""
    # What these import would count in the peaks that processes of this file measure.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode() as shapes_alone:
        model = drawn(name)[1]
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.method = "gather"  # made of operators that are counted
    counter = FlopCounterMode(display=False)
    with shapes_alone, counter:
        model(*(torch.zeros(shape) for shape in shapes))
    return float(counter.get_total_flops())


def product_rates(precisions: Iterable[str]) -> dict[str, float]:
    """Operations per second of a 4096³ matrix product, by precision, printed for both of PyTorch's ways.

    Returns:
        The better way's.
    """
    rates = {}
    for name in precisions:
        matrix = torch.randn(4096, 4096, dtype=getattr(torch, name))
        runs: dict[str, Callable[[], object]] = {
            "matmul": lambda matrix=matrix: matrix @ matrix,
            "convolution": lambda matrix=matrix: linear(matrix, matrix),
        }
        with torch.inference_mode():
            each = {way: 2 * 4096**3 / seconds for way, seconds in median_times(runs, 5).items()}
        rates[name] = max(each.values())
        told = ", ".join(f"{rate / 1e9:.0f} GFLOP/s by {way}" for way, rate in each.items())
        print(f"{name} matrix products: {told}")
    return rates


@contextlib.contextmanager
def recorded(predictor: Any) -> Iterator[list[Tensor]]:
    """The tensors that reach the network."""
    inputs: list[Tensor] = []
    hook = predictor.runtime.module.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    try:
        yield inputs
    finally:
        hook.remove()


def peer(name: str, inputs: list[Tensor]) -> tuple[str, Callable[[], object]] | None:
    """The installed peer's network with random weights and how to run it; None where there is none."""
    if name == "inspyrenet" and (found := importlib.util.find_spec("transparent_background")):
        # The package itself imports what its command line needs; the network needs nothing of it.
        bare = types.ModuleType("transparent_background")
        bare.__path__ = list(found.submodule_search_locations or [])
        sys.modules["transparent_background"] = bare
        from transparent_background.InSPyReNet import InSPyReNet_SwinB

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = list(inputs[0].shape[2:])
            net = InSPyReNet_SwinB(depth=64, pretrained=False, base_size=size, threshold=None).eval()
        return "transparent-background", lambda: net.forward_inference(inputs[0])
    if name == "maskformer-swin-tiny-ade" and importlib.util.find_spec("transformers"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers

            swin = transformers.SwinConfig(out_features=[f"stage{i}" for i in range(1, 5)])
            config = transformers.MaskFormerConfig(backbone_config=swin, num_labels=150)
            network = transformers.MaskFormerForInstanceSegmentation(config).eval()
        return "transformers", lambda: network(pixel_values=inputs[0])
    return None


def compare(
    name: str,
    path: Path,
    forms: Sequence[str],
    repeats: int,
    threads: int,
    rates: dict[str, float],
    network: nn.Module | None,
) -> list[list[str]]:
    """Rows of one model: each form, and the peer or the reference."""
    predictors = {form: opened(path, form, None) for form in forms}
    with recorded(predictors["plain"]) as inputs:
        predictors["plain"](photograph())
    runs: dict[str, Callable[[], object]] = {
        form: lambda predictor=predictor: predictor(photograph()) for form, predictor in predictors.items()
    }
    with torch.inference_mode():
        if network is not None:
            runs["reference"] = lambda: network(inputs[0])
        elif (other := peer(name, inputs)) is not None:
            runs[other[0]] = other[1]
        seconds = median_times(runs, repeats)
        wanted = output(predictors["plain"]) if network is None else network(inputs[0])[-1]
    total = operations(name, [tuple(tensor.shape) for tensor in inputs])
    rows = []
    for form, value in seconds.items():
        row = [f"{name}, {form}", f"{value:.2f}", f"{seconds['plain'] / value:.2f}×"]
        if form in predictors:
            apart = (output(predictors[form]) - wanted).abs()
            rate = total / value / rates["bfloat16" if form == "bfloat16" else "float32"]
            row += [f"{peak(path, form, 0, threads):.2f}", f"{rate:.0%}", f"{apart.max() / wanted.std():.1e}"]
        else:
            shape = "x".join(map(str, inputs[0].shape[2:]))
            row += ["" if network is not None else f"{peak(name, 'peer', shape, threads):.2f}", "", ""]
        rows.append(row)
    print(f"{name}: {total / 1e9:,.0f} GFLOP at {', '.join('×'.join(map(str, t.shape[2:])) for t in inputs)}")
    return rows


def output(predictor: Any) -> Tensor:
    """The logits that a form gives for the photograph."""
    found: list[Any] = []
    hook = predictor.runtime.module.register_forward_hook(lambda _module, _args, out: found.append(out))
    predictor(photograph())
    hook.remove()
    (out,) = found
    return (out.mask_logits if hasattr(out, "mask_logits") else out.logits).float()


def grow(name: str, path: Path, repeats: int, threads: int, plot: Path | None) -> None:
    """Time and memory by size, as a table and a plot."""
    rows, points = [], []
    for size in SIZES:
        predictors = {form: opened(path, form, size) for form in ("float32", "bfloat16")}
        runs: dict[str, Callable[[], object]] = {
            form: lambda predictor=predictor: predictor(photograph())
            for form, predictor in predictors.items()
        }
        seconds = median_times(runs, repeats)
        peaks = {form: peak(path, form, size, threads) for form in predictors}
        points.append((size, seconds, peaks))
        cells = [f"{seconds[form]:.2f}" for form in seconds] + [f"{peaks[form]:.2f}" for form in peaks]
        rows.append([f"{size}×{size}", *cells, f"{1e6 * seconds['float32'] / size**2:.2f}"])
    titles = [name, "float32, s", "bfloat16, s", "float32, GB", "bfloat16, GB", "float32, µs a pixel"]
    print_table(titles, rows)
    if plot is not None:
        draw(points, name, plot)


def draw(points: list[Any], name: str, plot: Path) -> None:
    """Two panels over megapixels: seconds and GB."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    pixels = [size**2 / 1e6 for size, _, _ in points]
    for panel, index, title in zip(panels, (1, 2), ("seconds", "peak memory, GB"), strict=True):
        for form in ("float32", "bfloat16"):
            panel.plot(pixels, [point[index][form] for point in points], marker="o", label=form)
        panel.set(xlabel="megapixels of the network's input", title=f"{name}: {title}", xlim=0, ylim=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    figure.savefig(plot, dpi=120)


def profile(name: str, path: Path) -> None:
    """The share of each operator in a picture's processor seconds, those of its own alone, by form."""
    shares: dict[str, dict[str, float]] = {}
    forms = ("float32", "bfloat16")
    for form in forms:
        predictor = opened(path, form, None)
        predictor(photograph())
        with torch.profiler.profile() as seen:
            predictor(photograph())
        events = seen.key_averages()
        whole = sum(event.self_cpu_time_total for event in events)
        for event in events:
            shares.setdefault(event.key, dict.fromkeys(forms, 0.0))[form] = event.self_cpu_time_total / whole
    most = sorted(shares, key=lambda key: -max(shares[key].values()))[:16]
    print_table([name, *forms], [[key, *(f"{shares[key][form]:.1%}" for form in forms)] for key in most])


def main() -> None:
    """Print the machine, the rate of matrix products and a table for each model."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of the comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=Path, help="a checkout of the official BiRefNet")
    parser.add_argument("--growth", action="store_true", help="by size instead, up to 2048×2048")
    parser.add_argument("--plot", type=Path, help="with --growth: the picture to write")
    parser.add_argument("--profile", action="store_true", help="where the seconds go instead")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        one(*options.peak)
        print(memory_of())
        return

    print(f"{machine()}; {versions('torch', 'torchvision')}, {options.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        if options.growth:
            for name in options.models:
                path = written(name, folder, most=SIZES[-1])
                grow(name, path, options.repeats, options.threads, options.plot)
            return
        if options.profile:
            for name in options.models:
                profile(name, written(name, folder))
            return
        forms = [form for form in FORMS if form in ("plain", *options.forms)]
        rates = product_rates(dict.fromkeys(FORMS[form]["dtype"] for form in forms))
        titles = ["model, form", "s", "faster", "peak GB", "of the products' rate", "largest difference"]
        for name in options.models:
            checkout = options.reference if name in PRESETS["birefnet"] else None
            network = None if checkout is None else official(name, checkout)
            path = written(name, folder, network)
            rows = compare(name, path, forms, options.repeats, options.threads, rates, network)
            print_table(titles, rows)
            print(flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
