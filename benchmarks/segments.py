"""MaskFormer beside transformers' own: the same weights, in one process, by turns.

    python benchmarks/segments.py [--threads 2] [--repeats 1]

The network: images in, queries out, of facebook/maskformer-swin-tiny-coco's shape with weights drawn at
random. The readings: logits that see twenty segments, read at the size of a photograph of 12 megapixels.
Times are medians.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from decoupe import readings
from decoupe.weights import convert
from decoupe.weights.labels import COCO_PANOPTIC
from machine import machine, median_times, parser_of, print_table, versions

QUERIES, CLASSES = 100, 133
NETWORK, PHOTOGRAPH = (800, 1088), (3000, 4000)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits ``(1, Q, K + 1)``, mask logits ``(1, Q, h, w)``: twenty segments, eighty idle queries."""
    generator = torch.Generator().manual_seed(0)
    size = NETWORK[0] // 4, NETWORK[1] // 4
    smooth = torch.randn(1, QUERIES, 8, 10, generator=generator)
    masks = F.interpolate(smooth, size=size, mode="bicubic") * 8
    # The twenty share the picture: each is sure of itself where it is above the best of the others.
    fields = masks[0, :20].clone()
    for query in range(20):
        masks[0, query] = 2 * (fields[query] - fields[torch.arange(20) != query].amax(dim=0))
    classes = torch.randn(1, QUERIES, CLASSES + 1, generator=generator)
    classes[0, torch.arange(20), torch.randperm(CLASSES, generator=generator)[:20]] += 12
    classes[0, 20:, -1] += 16
    return classes, masks


def main() -> None:
    """Print one row for the network and one for each reading."""
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of transformers, as it is imported
    import transformers

    stages = [f"stage{number}" for number in range(1, 5)]
    torch.manual_seed(0)
    theirs = transformers.MaskFormerForInstanceSegmentation(
        transformers.MaskFormerConfig(
            backbone_config=transformers.SwinConfig(out_features=stages), num_labels=CLASSES
        )
    ).eval()
    ours = convert.from_reference("maskformer", theirs.state_dict())
    image = torch.randn(1, 3, *NETWORK)
    processor = transformers.MaskFormerImageProcessor()
    classes, masks = scene()
    output = type("Output", (), {"class_queries_logits": classes, "masks_queries_logits": masks})()
    one = classes[0].numpy(), masks[0].numpy()
    stuff = COCO_PANOPTIC.stuff
    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        f"network, {NETWORK[0]}×{NETWORK[1]}": (lambda: ours(image), lambda: theirs(pixel_values=image)),
        "semantic reading": (
            lambda: readings.semantic(*one, PHOTOGRAPH),
            lambda: processor.post_process_semantic_segmentation(output, target_sizes=[PHOTOGRAPH]),
        ),
        "panoptic reading": (
            lambda: readings.panoptic(*one, PHOTOGRAPH, score=0.5, fuse=stuff),
            lambda: processor.post_process_panoptic_segmentation(
                output, label_ids_to_fuse=set(stuff), target_sizes=[PHOTOGRAPH]
            ),
        ),
    }
    print(f"{machine()}, {options.threads} threads; {versions('torch', 'transformers', 'numpy')}\n")
    with torch.inference_mode():
        difference = (ours(image).mask_logits - theirs(pixel_values=image).masks_queries_logits).abs().max()
        same = (
            readings.semantic(*one, PHOTOGRAPH)
            == processor.post_process_semantic_segmentation(output, target_sizes=[PHOTOGRAPH])[0].numpy()
        )
        rows = []
        for name, functions in cases.items():
            seconds = median_times(
                dict(zip(("decoupe", "transformers"), functions, strict=True)), options.repeats
            )
            mine, other = seconds["decoupe"], seconds["transformers"]
            rows.append([name, f"{other:.2f}", f"{mine:.2f}", f"{other / mine:.1f}×"])
    print_table(["", "transformers, s", "decoupe, s", "faster"], rows)
    print(
        f"\nlargest difference of mask logits {difference:.1g}; equal classes {np.mean(same):.5%} of pixels"
    )


if __name__ == "__main__":
    main()
