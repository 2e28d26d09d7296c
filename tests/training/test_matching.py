"""MaskFormer's criterion against transformers', and against what it means; the golden loss is met beside."""

from __future__ import annotations

import sys
import warnings
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.errors import ConfigError, InputError, MissingExtraError
from decoupe.models.maskformer import MaskFormerOutput, PerPixelOutput
from decoupe.training.matching import (
    MaskFormerCriterion,
    PerPixelCriterion,
    Truth,
    dice,
    dice_costs,
    focal_costs,
)

CLASSES, QUERIES = 4, 6


def output(seed: int, pictures: int = 2, layers: int = 3) -> MaskFormerOutput:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 3 * torch.randn(pictures, QUERIES, *shape, generator=generator, dtype=torch.float64)

    classes = [draw(CLASSES + 1) for _ in range(layers)]
    masks = [draw(7, 9) for _ in range(layers)]
    return MaskFormerOutput(classes[-1], masks[-1], tuple(classes[:-1]), tuple(masks[:-1]))


def truth(seed: int, counts: tuple[int, ...], size: tuple[int, int] = (28, 36)) -> list[Truth]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Truth(
            torch.rand(count, *size, generator=generator) > 0.5,
            torch.randint(CLASSES, (count,), generator=generator),
        )
        for count in counts
    ]


@pytest.mark.parametrize("counts", [(3, 1), (6, 5), (2, 0), (9, 4)])
def test_terms_are_transformers(counts: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' import, which is not ours
        from transformers.models.maskformer.modeling_maskformer import (
            MaskFormerHungarianMatcher,
            MaskFormerLoss,
        )

        weights = {"loss_mask": 20.0, "loss_dice": 1.0, "loss_cross_entropy": 1.0}
        matcher = MaskFormerHungarianMatcher(cost_class=1.0, cost_mask=20.0, cost_dice=1.0)
        reference = MaskFormerLoss(CLASSES, matcher, weights, eos_coef=0.1).double()
    reference.empty_weight[-1] = 0.1  # kept in float32, it would be off by 1e-8
    out, real = output(sum(counts)), truth(len(counts), counts)
    sides = [
        {"masks_queries_logits": masks, "class_queries_logits": classes}
        for classes, masks in zip(out.side_class_logits, out.side_mask_logits, strict=True)
    ]
    expected = reference(
        out.mask_logits,
        out.class_logits,
        [one.masks.double() for one in real],
        [one.classes for one in real],
        sides,
    )
    terms = MaskFormerCriterion()(out, real)
    for ours, theirs in (("classification", "cross_entropy"), ("mask", "mask"), ("dice", "dice")):
        whole = sum(v for k, v in expected.items() if k.startswith(f"loss_{theirs}"))
        assert float(terms[ours]) == pytest.approx(weights[f"loss_{theirs}"] * float(whole), rel=1e-9)


@given(count=st.integers(1, QUERIES), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_no_other_matching_is_cheaper(count: int, seed: int) -> None:
    criterion = MaskFormerCriterion()
    out = output(seed, pictures=1, layers=1)
    (real,) = truth(seed, (count,), size=(7, 9))
    real = real._replace(masks=real.masks.double())
    costs = -out.class_logits[0].softmax(1)[:, real.classes]
    costs = costs + 20 * focal_costs(out.mask_logits[0], real.masks)
    costs = costs + dice_costs(out.mask_logits[0], real.masks)
    match = criterion.match(out.class_logits[0], out.mask_logits[0], real)
    assert sorted(match.segments.tolist()) == list(range(count))
    cheapest = min(costs[list(chosen), range(count)].sum() for chosen in permutations(range(QUERIES), count))
    assert float(costs[match.queries, match.segments].sum()) == pytest.approx(float(cheapest))


def test_pairwise_costs_are_the_losses_of_the_pairs() -> None:
    logits, (real,) = output(0).mask_logits[0], truth(1, (3,), size=(7, 9))
    masks = real.masks.double()
    for query in range(QUERIES):
        pairs = logits[query].expand(3, -1, -1)
        torch.testing.assert_close(dice_costs(logits, masks)[query], dice(pairs, masks))
        prediction = pairs.sigmoid()
        right = torch.where(masks > 0, prediction, 1 - prediction)
        weight = torch.where(masks > 0, 0.25, 0.75)
        focal = (-weight * (1 - right) ** 2 * right.log()).mean(dim=(1, 2))
        torch.testing.assert_close(focal_costs(logits, masks)[query], focal)


def test_perfect_answers_cost_next_to_nothing() -> None:
    (real,) = truth(0, (3,), size=(8, 8))
    class_logits = torch.full((1, QUERIES, CLASSES + 1), -40.0)
    class_logits[0, :, -1] = 40
    mask_logits = torch.full((1, QUERIES, 8, 8), -40.0)
    for segment, query in enumerate((5, 0, 3)):
        class_logits[0, query, -1] = -40
        class_logits[0, query, real.classes[segment]] = 40
        mask_logits[0, query] = 80.0 * real.masks[segment] - 40
    match = MaskFormerCriterion().match(
        class_logits[0], mask_logits[0], Truth(real.masks.float(), real.classes)
    )
    assert dict(zip(match.segments.tolist(), match.queries.tolist(), strict=True)) == {0: 5, 1: 0, 2: 3}
    terms = MaskFormerCriterion()(MaskFormerOutput(class_logits, mask_logits), [real])
    assert float(sum(terms.values())) < 1e-5


def test_pictures_without_segments_teach_no_object() -> None:
    out = output(0)
    out.mask_logits.requires_grad_()
    out.class_logits.requires_grad_()
    terms = MaskFormerCriterion()(out, truth(0, (0, 0)))
    assert float(terms["mask"].detach()) == float(terms["dice"].detach()) == 0
    sum(terms.values()).backward()
    assert (out.class_logits.grad[..., -1] < 0).all()
    assert out.mask_logits.grad.isfinite().all()


def test_mask_losses_are_means_over_the_batch_s_segments() -> None:
    out, real = output(1, layers=1), truth(1, (2, 3))
    twice = MaskFormerOutput(*(torch.cat([logits, logits]) for logits in out[:2]))
    once, doubled = MaskFormerCriterion()(out, real), MaskFormerCriterion()(twice, [*real, *real])
    for name, value in once.items():
        torch.testing.assert_close(doubled[name], value)


@pytest.mark.parametrize("counts", [(3, 1, 0, 2), (0, 0, 1, 0), (0, 0, 0, 0), (6, 8, 1, 1)])
def test_parts_of_a_batch_cost_in_the_mean_what_it_costs(counts: tuple[int, ...]) -> None:
    """However its segments are shared out; with more segments than queries at equal weights."""
    out, real = output(5, pictures=4), truth(5, counts)
    weights = (3.0, 1.0, 0.5, 2.0, 0.1) if max(counts) <= QUERIES else None
    criterion = MaskFormerCriterion(class_weights=weights)
    whole = criterion(out, real)
    halves = (slice(0, 2), slice(2, 4))
    parts = [[one.classes for one in real[half]] for half in halves]
    costs = [
        criterion(
            MaskFormerOutput(
                out.class_logits[half],
                out.mask_logits[half],
                tuple(logits[half] for logits in out.side_class_logits),
                tuple(logits[half] for logits in out.side_mask_logits),
            ),
            real[half],
            parts=parts,
        )
        for half in halves
    ]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([one[name] for one in costs]).mean(), value)


def test_half_precision_is_summed_in_single() -> None:
    half = MaskFormerOutput(*(logits.bfloat16() for logits in output(2, layers=1)[:2]))
    terms = MaskFormerCriterion()(half, truth(2, (2, 1)))
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_classes_can_be_weighed() -> None:
    out, real = output(3), truth(3, (3, 2))
    plain = MaskFormerCriterion()(out, real)
    assert MaskFormerCriterion(class_weights=(1, 1, 1, 1, 0.1))(out, real) == plain
    assert MaskFormerCriterion(class_weights=(5, 1, 1, 1, 0.1))(out, real) != plain
    with pytest.raises(ConfigError, match="3 class_weights, expected 5"):
        MaskFormerCriterion(class_weights=(1, 1, 1))(out, real)


def test_truth_that_does_not_fit_is_told() -> None:
    out, real = output(4), truth(4, (3, 2))
    with pytest.raises(InputError, match="truth of 1 pictures, expected 2"):
        MaskFormerCriterion()(out, real[:1])
    with pytest.raises(InputError, match="H and W the same in a batch"):
        MaskFormerCriterion()(out, [real[0], *truth(4, (2,), size=(30, 30))])
    with pytest.raises(InputError, match=r"\(3, 28, 36\) with \(2,\)"):
        MaskFormerCriterion()(out, [real[0]._replace(classes=real[0].classes[:2]), real[1]])


def test_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match=r"matching segments needs .*decoupe\[train\]"):
        MaskFormerCriterion()(output(0), truth(0, (1, 1)))


def test_baselines_cost_the_cross_entropy_of_each_layer() -> None:
    labels = torch.tensor([[[0, 1], [255, 2]]])
    logits = torch.zeros(1, 3, 2, 2)
    once = PerPixelCriterion()(PerPixelOutput(logits), labels)["classification"]
    assert float(once) == pytest.approx(np.log(3), rel=1e-6)
    thrice = PerPixelCriterion()(PerPixelOutput(logits, (logits, logits)), labels)["classification"]
    assert float(thrice) == pytest.approx(3 * float(once))
    enlarged = PerPixelCriterion()(PerPixelOutput(logits), torch.ones(1, 8, 8, dtype=torch.int64))
    assert float(enlarged["classification"]) == pytest.approx(float(once))
    nothing = PerPixelCriterion()(PerPixelOutput(logits), torch.full((1, 2, 2), 255))["classification"]
    assert float(nothing) == 0
