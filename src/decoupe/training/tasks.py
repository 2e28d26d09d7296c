"""The two kinds of truth a model is trained on, mattes and segments: their data, losses, scores and pictures.

The loop knows neither; it is given one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decoupe import readings
from decoupe.datasets.coco import CocoInstances
from decoupe.datasets.scenes import Scene
from decoupe.datasets.segment_sets import is_segment_set
from decoupe.datasets.sets import pictures_in, read_pair, spread
from decoupe.datasets.shards import Source
from decoupe.errors import ConfigError, InputError
from decoupe.evaluation import Metric
from decoupe.evaluation.mattes import MatteScores, are_soft
from decoupe.evaluation.pictures import Array, labelled
from decoupe.evaluation.scenes import THRESHOLDS, told_objects
from decoupe.evaluation.segments import AveragePrecision, Instance, MeanIoU, PanopticQuality, classes_of
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import from_network, network_size, to_network
from decoupe.inference.segments import Thresholds
from decoupe.training.augment import Augmentation
from decoupe.training.criteria import BiRefNetCriterion, InSPyReNetCriterion
from decoupe.training.data import MatteBatch, MatteDataset, SegmentBatch, SegmentDataset
from decoupe.training.division import LOOKED_AT, divide, divide_as_classes, divide_segment_set, repeats_of
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.recipe import Criterion, Recipe
from decoupe.training.segment_augment import SegmentAugmentation
from decoupe.weights.labels import NO_NAMES, Vocabulary
from decoupe.weights.registry import Preprocessing

VALIDATION_SIDE = 1024
"""Long side in pixels at which held-out pictures are scored while training."""


class Task(Protocol):
    """What the loop is given.

    Attributes:
        sets: names of the sets that are trained on, with the number of pictures of each.
        repeats: of each training picture per epoch.
        held_out: names of the sets that are validated on, with the number of pictures of each.
        vocabulary: the names of a segment model's classes.
        labels: index of each class label of an auxiliary classification.
    """

    @property
    def sets(self) -> Mapping[str, int]: ...  # noqa: D102 - see above

    @property
    def repeats(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def held_out(self) -> Mapping[str, int]: ...  # noqa: D102 - see above

    @property
    def vocabulary(self) -> Vocabulary: ...  # noqa: D102 - see above

    @property
    def labels(self) -> Mapping[str, int]: ...  # noqa: D102 - see above

    def dataset(self, longest: int, *, keep: bool = True) -> Any:
        """The training data, decoded at ``longest`` pixels and, where ``keep``, kept if all fit in memory.

        Its ``collate`` makes batches.
        """

    def loss(
        self, out: Any, batch: Any, image: Tensor, criterion: Criterion, parts: Sequence[Any]
    ) -> dict[str, Tensor]:
        """The weighted terms by name of a batch, one of this process's ``parts`` of an optimiser step's."""

    def metric(self) -> Metric:
        """An empty accumulator of the validation's scores."""

    def worth(self, scores: Mapping[str, float]) -> float:
        """By which of a set's scores the best weights are chosen; larger is better."""

    def look(self, name: str, index: int) -> None:
        """Read one held-out picture, as it will be judged.

        Raises:
            InputError: it cannot be; the message names it.
        """

    def judge(self, model: Callable[[Tensor], Any], name: str, index: int) -> Callable[[Metric], None]:
        """Predict one held-out picture; what is returned enters it into a metric."""

    def row(self, model: Callable[[Tensor], Any], name: str, index: int) -> list[Array]:
        """A held-out photograph, its truth and the prediction, as pictures of one size."""


class MatteTask:
    """Pairs of photographs and mattes.

    Args:
        recipe: what to run.
        folders: sets to train on.
        validation: sets to validate on; without any, part of each training set is held out.
        backgrounds: folder of photographs to set subjects on.
        device: of the network.

    Raises:
        InputError: a folder that holds no set, or nothing is left to train on.
        ConfigError: the data name more classes than the model has.
    """

    vocabulary = NO_NAMES

    def __init__(
        self,
        recipe: Recipe,
        folders: Sequence[Path],
        validation: Sequence[Path] = (),
        *,
        backgrounds: Path | None = None,
        device: torch.device,
    ) -> None:
        assert recipe.preprocessing is not None, "recipes are completed before they are run"
        self.recipe, self.device, self.preprocessing = recipe, device, recipe.preprocessing
        train, self.out = divide(recipe, folders, validation)
        self.train = [pair for pairs in train.values() for pair in pairs]
        self.sets = {name: len(pairs) for name, pairs in train.items()}
        self.repeats = repeats_of(recipe, train)
        self.held_out = {name: len(pairs) for name, pairs in self.out.items()}
        self.labels = {label: i for i, label in enumerate(sorted({p.label for p in self.train if p.label}))}
        classes = getattr(recipe.model, "classes", 0)
        if classes and len(self.labels) > classes:
            raise ConfigError(
                f"the data name {len(self.labels)} classes, the model has {classes}: "
                f"--set model.classes={len(self.labels)}"
            )
        self.backgrounds: list[Source] = list(pictures_in(backgrounds)) if backgrounds else []
        if backgrounds and not self.backgrounds:
            raise InputError(
                f"{backgrounds} holds no pictures: give a folder of photographs to set subjects on"
            )

    @cached_property
    def soft(self) -> bool:
        """Whether the held-out mattes are soft."""
        looked_at = [pair for pairs in self.out.values() for pair in spread(pairs, LOOKED_AT)]
        return are_soft(read_pair(pair, longest=VALIDATION_SIDE)[1] for pair in looked_at)

    def dataset(self, longest: int, *, keep: bool = True) -> MatteDataset:
        """The training data, decoded at ``longest`` pixels and, where ``keep``, kept if all fit in memory."""
        assert isinstance(self.recipe.augmentation, Augmentation)
        return MatteDataset(
            self.train,
            self.recipe.augmentation,
            seed=self.recipe.seed,
            longest=longest,
            keep=keep,
            labels=self.labels,
            backgrounds=self.backgrounds,
        )

    def pictures(self, most: int) -> Iterator[Tensor]:
        """Training photographs as the network sees them, evenly chosen: ``(1, 3, h, w)`` each, on the CPU."""
        for pair in spread(self.train, most):
            image, _ = read_pair(pair, longest=VALIDATION_SIDE)
            yield network_input(image, self.preprocessing, torch.device("cpu"))

    def loss(
        self, out: Any, batch: MatteBatch, image: Tensor, criterion: Criterion, parts: Sequence[MatteBatch]
    ) -> dict[str, Tensor]:
        """The weighted terms by name of a batch, one of this process's ``parts`` of an optimiser step's."""
        truth = batch.masks.to(self.device, non_blocking=True).float() / 255
        if isinstance(criterion, BiRefNetCriterion):
            classes = batch.classes.to(self.device, non_blocking=True) if self.labels else None
            return criterion(out, image, truth, classes, parts=[part.classes for part in parts])
        assert isinstance(criterion, InSPyReNetCriterion)
        return criterion(out, image, truth)

    def metric(self) -> MatteScores:
        """S-measure, mean absolute and squared error, F-measures."""
        return MatteScores(("S", "MAE", "MSE", "maxF", "wF"))

    def worth(self, scores: Mapping[str, float]) -> float:
        """The S-measure; of soft truths, which it cuts at one half, the mean squared error below 0."""
        return -scores["MSE"] if self.soft else scores["S"]

    def look(self, name: str, index: int) -> None:
        """Read one held-out picture, as it will be judged; InputError where it cannot be."""
        read_pair(self.out[name][index], longest=VALIDATION_SIDE)

    def judge(self, model: Callable[[Tensor], Any], name: str, index: int) -> Callable[[Metric], None]:
        """Predict one held-out picture; what is returned enters it into a metric."""
        image, truth = read_pair(self.out[name][index], longest=VALIDATION_SIDE)
        alpha = predict_matte(model, image, self.preprocessing, self.device)
        return lambda metric: metric.update(alpha, truth)

    def row(self, model: Callable[[Tensor], Any], name: str, index: int) -> list[Array]:
        """Photograph, truth, prediction."""
        image, truth = read_pair(self.out[name][index], longest=VALIDATION_SIDE)
        alpha = predict_matte(model, image, self.preprocessing, self.device)
        return [image, truth, (alpha * 255).round().astype(np.uint8)]


class SegmentTask:
    """Pictures and their segments: one COCO or ADE20K folder, or matte sets, each a class of its name.

    Args:
        recipe: what to run.
        folders: what to train on.
        validation: what to validate on; without any, the set's own validation part, or a part held out.
        device: of the network.

    Raises:
        InputError: a folder that holds no set.
        ConfigError: the data have another number of classes than the model.
    """

    def __init__(
        self,
        recipe: Recipe,
        folders: Sequence[Path],
        validation: Sequence[Path] = (),
        *,
        device: torch.device,
    ) -> None:
        assert recipe.preprocessing is not None, "recipes are completed before they are run"
        self.recipe, self.device, self.preprocessing = recipe, device, recipe.preprocessing
        self.labels: Mapping[str, int] = {}
        # Scores are those of `decoupe eval`, which leaves what is unsure to no segment on matte sets alone.
        self.indices: Sequence[int]
        self.repeats: Sequence[int]
        if all(is_segment_set(folder) for folder in folders):
            self.scenes, self.indices, self.out = divide_segment_set(recipe, folders, validation)
            self.sets, self.repeats = {self.scenes.name: len(self.indices)}, [1] * len(self.indices)
            self.void = THRESHOLDS["panoptic"].void
        else:
            self.scenes, self.sets, self.repeats, self.out = divide_as_classes(recipe, folders, validation)
            self.indices = range(len(self.scenes))
            self.void = Thresholds().void
        self.held_out = {name: len(indices) for name, (_, indices) in self.out.items()}
        self.vocabulary = self.scenes.vocabulary
        # Panoptic quality skips what is not told, here all that is no object: false alarms would be free.
        self.objects = any(isinstance(scenes, CocoInstances) for scenes, _ in self.out.values())
        things = len(self.vocabulary.stuff) < len(self.vocabulary.names)
        self.judged_by = "AP" if self.objects else "PQ" if things else "mIoU"
        classes = getattr(recipe.model, "classes", 0)
        if classes != len(self.vocabulary.names):
            raise ConfigError(
                f"the data have {len(self.vocabulary.names)} classes, the model {classes}: "
                f"--set model.classes={len(self.vocabulary.names)}"
            )

    def dataset(self, longest: int, *, keep: bool = True) -> SegmentDataset:
        """The training data, decoded at ``longest`` pixels and, where ``keep``, kept if all fit in memory."""
        assert isinstance(self.recipe.augmentation, SegmentAugmentation)
        return SegmentDataset(
            self.scenes,
            self.indices,
            self.recipe.augmentation,
            seed=self.recipe.seed,
            longest=longest,
            keep=keep,
        )

    def loss(
        self,
        out: Any,
        batch: SegmentBatch,
        image: Tensor,
        criterion: Criterion,
        parts: Sequence[SegmentBatch],
    ) -> dict[str, Tensor]:
        """The weighted terms by name of a batch, one of this process's ``parts`` of an optimiser step's."""
        del image
        assert isinstance(criterion, MaskFormerCriterion)
        return criterion(out, batch.truth(self.device), parts=[part.classes for part in parts])

    def metric(self) -> Metric:
        """Mean IoU and panoptic quality, each of its own reading; of COCO instances average precision."""
        return AveragePrecision(self.vocabulary) if self.objects else SegmentScores(self.vocabulary)

    def worth(self, scores: Mapping[str, float]) -> float:
        """Average precision of sets of COCO instances, panoptic quality of other things, else mean IoU."""
        return scores[self.judged_by]

    def look(self, name: str, index: int) -> None:
        """Read one held-out picture, as it will be judged; InputError where it cannot be."""
        self._scene(name, index)

    def judge(self, model: Callable[[Tensor], Any], name: str, index: int) -> Callable[[Metric], None]:
        """Predict one held-out picture; what is returned enters it into a metric."""
        scene = self._scene(name, index)
        if self.objects:
            scenes, indices = self.out[name]
            assert isinstance(scenes, CocoInstances)
            found = self._find(model, scene.image, scenes.size_of(indices[index]))
            told = told_objects(scenes, indices[index])
            return lambda metric: metric.update(found, told)
        prediction = self._predict(model, scene.image)
        return lambda metric: metric.update(prediction, scene)

    def row(self, model: Callable[[Tensor], Any], name: str, index: int) -> list[Array]:
        """Photograph, truth, prediction."""
        scene = self._scene(name, index)
        found = self._predict(model, scene.image)
        return [
            scene.image,
            labelled(scene.image, scene.told, self._names(scene.classes)),
            labelled(scene.image, found.segments, self._names(found.classes)),
        ]

    def _names(self, classes: NDArray[np.int64]) -> list[str]:
        return [self.vocabulary.names[label] for label in classes]

    def _scene(self, name: str, index: int) -> Scene:
        scenes, indices = self.out[name]
        return scenes.read(indices[index], longest=VALIDATION_SIDE)

    def _logits(self, model: Callable[[Tensor], Any], image: Array) -> tuple[NDArray[np.float32], ...]:
        """Class logits ``(Q, K + 1)`` and mask logits ``(Q, h, w)`` of a photograph."""
        out = model(network_input(image, self.preprocessing, self.device))
        return tuple(x[0].float().cpu().numpy() for x in (out.class_logits, out.mask_logits))

    def _find(self, model: Callable[[Tensor], Any], image: Array, size: tuple[int, int]) -> list[Instance]:
        """Every object, however unsure, with a mask of ``size``."""
        classes, masks = self._logits(model, image)
        found = readings.instances(classes, masks, size, THRESHOLDS["instances"].instance, smooth=True)
        return [Instance(one.mask, one.label, one.score) for one in found]

    def _predict(self, model: Callable[[Tensor], Any], image: Array) -> SegmentPrediction:
        classes, masks = self._logits(model, image)
        size = image.shape[:2]
        found = readings.panoptic(classes, masks, size, fuse=self.vocabulary.stuff, void=self.void)
        segments = np.full(size, -1, np.int32)
        for number, segment in enumerate(found):
            segments[segment.mask] = number
        labels = np.array([segment.label for segment in found], np.int64)
        return SegmentPrediction(segments, labels, readings.semantic(classes, masks, size))


def task_of(
    recipe: Recipe,
    folders: Sequence[Path],
    validation: Sequence[Path],
    *,
    backgrounds: Path | None,
    device: torch.device,
) -> MatteTask | SegmentTask:
    """What a recipe learns from some folders: segments where it augments those, else mattes."""
    if isinstance(recipe.augmentation, SegmentAugmentation):
        return SegmentTask(recipe, folders, validation, device=device)
    return MatteTask(recipe, folders, validation, backgrounds=backgrounds, device=device)


class SegmentPrediction(NamedTuple):
    """What a model says of one picture, in two readings.

    Attributes:
        segments: panoptic, int32 ``(H, W)``: index in ``classes``, −1 for none.
        classes: int64 ``(M,)``.
        semantic: class of every pixel, ``(H, W)``.
    """

    segments: NDArray[np.int32]
    classes: NDArray[np.int64]
    semantic: NDArray[np.int64]


class SegmentScores:
    """Mean IoU and panoptic quality at once; a `Metric` of `SegmentPrediction` against `Scene`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.semantic, self.panoptic = MeanIoU(vocabulary), PanopticQuality(vocabulary)

    def update(self, prediction: SegmentPrediction, truth: Scene) -> None:
        """Enter one picture."""
        self.semantic.update(prediction.semantic, classes_of((truth.told, truth.classes)))
        self.panoptic.update(
            (prediction.segments, prediction.classes), (truth.segments, truth.classes), truth.crowd
        )

    def merge(self, other: SegmentScores) -> None:
        """Enter what another process has seen."""
        self.semantic.merge(other.semantic)
        self.panoptic.merge(other.panoptic)

    def result(self) -> dict[str, float]:
        """The scores of both."""
        return {**self.semantic.result(), **self.panoptic.result()}


def check_backgrounds(recipe: Recipe, backgrounds: Path | None) -> list[str]:
    """A note where the recipe has a use for backgrounds and there are none.

    Raises:
        ConfigError: there are some, which its augmentation would never show.
    """
    share = getattr(recipe.augmentation, "replace", 0)
    if backgrounds is None and share:
        return [f"augmentation.replace={share:g} does nothing without --backgrounds, such as landscapes"]
    if backgrounds is not None and not share:
        raise ConfigError(
            f"the recipe sets no subject on {backgrounds}: "
            + (
                "--set augmentation.replace=0.3 does on three of ten"
                if isinstance(recipe.augmentation, Augmentation)
                else "backgrounds are for mattes"
            )
        )
    return []


def predict_matte(
    model: Callable[[Tensor], Any], image: Array, preprocessing: Preprocessing, device: torch.device
) -> NDArray[np.float32]:
    """A photograph ``(H, W, 3)`` -> its alpha ``(H, W)``, as users of the weights get it in one pass."""
    logits: Tensor = model(network_input(image, preprocessing, device)).logits
    return from_network(logits.float().sigmoid()[0, 0].cpu().numpy(), read_image(image))


def network_input(image: Array, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """A photograph ``(H, W, 3)`` -> normalised ``(1, 3, h, w)`` on the device."""
    picture = read_image(image)
    pixels = to_network(picture, network_size(picture.size, preprocessing), preprocessing)
    return torch.from_numpy(pixels)[None].to(device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode without gradients; as it was afterwards."""
    modes = [module.training for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training
