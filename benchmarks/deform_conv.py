"""Modulated deformable convolution on a CPU: decoupe's rows form beside torchvision's operator.

    python benchmarks/deform_conv.py [--backward] [--size 256] [--repeats 7]

64 → 256 channels, as the deformable branches of BiRefNet's decoder have them; offsets of a few pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from decoupe.layers.deform import Method, deform_conv2d
from machine import machine, median_times, parser_of, print_table, versions

CHANNELS, OUT = 64, 256
METHODS: dict[str, Method] = {"torchvision": "torchvision", "decoupe": "rows"}


def draw(kernel: int, size: int, layout: torch.memory_format) -> list[Tensor]:
    """Map, offset, modulation and weight with the spread that a trained model has."""
    generator = torch.Generator().manual_seed(kernel)
    taps = kernel**2
    shapes = [(1, CHANNELS, size, size), (1, 2 * taps, size, size), (1, taps, size, size)]
    x, offset, modulation = (
        torch.randn(shape, generator=generator).contiguous(memory_format=layout) for shape in shapes
    )
    weight = torch.randn(OUT, CHANNELS, kernel, kernel, generator=generator) / (CHANNELS * taps) ** 0.5
    return [x, 2 * offset, 2 * modulation.sigmoid(), weight]


def runner(tensors: list[Tensor], kernel: int, method: Method, backward: bool) -> Callable[[], Tensor]:
    """One call of ``method``, with the way back where asked."""

    def run() -> Tensor:
        if not backward:
            with torch.inference_mode():
                return deform_conv2d(*tensors, padding=kernel // 2, method=method)
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        out = deform_conv2d(*leaves, padding=kernel // 2, method=method)
        torch.autograd.grad(out, leaves, torch.ones_like(out))
        return out.detach()

    return run


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--kernels", type=int, nargs="+", default=[1, 3, 7])
    parser.add_argument("--size", type=int, default=256, help="side of the map in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backward", action="store_true", help="forward and backward together")
    options = parser.parse_args()

    print(f"{machine()}; {versions('torch', 'torchvision')}, {torch.get_num_threads()} threads")
    what = "forward and backward" if options.backward else "forward"
    print(f"\n{CHANNELS} → {OUT} channels, {options.size}×{options.size}, float32, {what}\n")
    rows = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for kernel in options.kernels:
            tensors = draw(kernel, options.size, layout)
            runs = {name: runner(tensors, kernel, form, options.backward) for name, form in METHODS.items()}
            difference = (runs["decoupe"]() - runs["torchvision"]()).abs().max().item()
            seconds = median_times(runs, options.repeats)
            name = f"{kernel}, {str(layout).split('.')[1].removesuffix('_format').replace('_', ' ')}"
            ratio = seconds["torchvision"] / seconds["decoupe"]
            row = [f"{seconds[form]:.3f}" for form in METHODS]
            rows.append([name, *row, f"{ratio:.1f}×", f"{difference:.1e}"])
    print_table(["kernel, layout", "torchvision, s", "decoupe, s", "faster", "largest difference"], rows)


if __name__ == "__main__":
    main()
