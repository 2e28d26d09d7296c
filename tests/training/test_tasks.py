"""What validation scores while training, and what the best weights are chosen by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from decoupe.errors import InputError
from decoupe.evaluation.mattes import are_soft
from decoupe.training.recipes import read_recipe
from decoupe.training.tasks import MatteTask, SegmentTask
from drawn import soft_disc
from evaluation.test_scenes import boxes, draw_scenes
from inference.queries import logits_of

CPU = torch.device("cpu")


def segment_task(folder: Path, *validation: Path, settings: Sequence[str] = ()) -> SegmentTask:
    common = ["model.classes=3", "backbone=null", "preprocessing.size=[64, 64]"]
    recipe = read_recipe("maskformer-swin-tiny-ade", [*common, *settings])
    return SegmentTask(recipe, [folder], validation, device=CPU)


def scores_of(
    task: SegmentTask, classes: list[int], masks: list[np.ndarray], *, unsure: np.ndarray | None = None
) -> dict[str, float]:
    """The validation's scores of a model that sees these masks in every picture."""
    class_logits, mask_logits = logits_of(masks, classes, task.vocabulary)
    if unsure is not None:  # a probability of 0.4 where the mask is nearer than any other
        mask_logits[-1][unsure] = -0.4
    out = SimpleNamespace(
        class_logits=torch.tensor(class_logits)[None], mask_logits=torch.tensor(mask_logits)[None]
    )
    ((name, count),) = task.held_out.items()
    metric = task.metric()
    for index in range(count):
        task.judge(lambda pixels: out, name, index)(metric)
    return metric.result()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures as COCO panoptic and instances, the same to train and to validate on."""
    folder = draw_scenes(tmp_path)
    for path in [*folder.glob("*val2017"), *(folder / "annotations").glob("*")]:
        copy = path.with_name(path.name.replace("val", "train"))
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    return folder


def test_false_alarms_cost_where_objects_alone_are_told(coco: Path) -> None:
    """As in ``decoupe eval --protocol instances``; panoptic quality is 1 of a dog that fills the picture."""
    for path in (coco / "annotations").glob("panoptic_*.json"):
        path.unlink()
    for path in (coco / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 18]
        path.write_text(json.dumps(content))
    task = segment_task(coco)
    _, dog, _ = boxes()
    right, everywhere = (scores_of(task, [1], [mask]) for mask in (dog, np.ones_like(dog)))
    assert task.worth(right) == right["AP"] == pytest.approx(1)
    assert task.worth(everywhere) == 0


def test_panoptic_quality_is_read_as_published(coco: Path) -> None:
    """No pixel is left out for being unsure, as in ``decoupe eval``."""
    cat, dog, sky = boxes()
    unsure = sky.copy()
    unsure[:, :56] = False
    scores = scores_of(segment_task(coco), [0, 1, 2], [cat, dog, sky], unsure=unsure)
    assert scores["PQ"] == pytest.approx(1)
    assert segment_task(coco).worth(scores) == scores["PQ"]


def test_a_segment_set_is_not_judged_by_what_it_is_trained_on(coco: Path) -> None:
    """Given twice it is judged by its validation part, if there is one; rules leave something to train on."""
    assert segment_task(coco, coco).held_out == {"val2017": 2}
    for path in [*coco.glob("*val2017"), *(coco / "annotations").glob("*val2017*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="coco is given twice: give it once"):
        segment_task(coco, coco)
    with pytest.raises(InputError, match="every pair of train2017 is held out by the recipe's rule"):
        segment_task(coco, settings=["sets=[{name: train2017, held_out: 9}]"])


def test_soft_truths_are_judged_by_their_error(discs: Path) -> None:
    """The S-measure cuts truths at one half, so that of soft ones it prefers hard edges."""
    recipe = read_recipe("pocket", ["sets=[]", "held_out=0.5"])
    hard_edges, soft_edges = {"S": 0.9, "MSE": 0.02}, {"S": 0.8, "MSE": 0.01}
    hard = MatteTask(recipe, [discs], device=CPU)
    assert hard.worth(hard_edges) > hard.worth(soft_edges)
    for path in (discs / "gt").iterdir():
        with Image.open(path) as mask:
            soft_disc(*mask.size).save(path)
    soft = MatteTask(recipe, [discs], device=CPU)
    assert soft.worth(hard_edges) < soft.worth(soft_edges)
    assert "MSE" in soft.metric().columns


def test_smoothed_edges_of_hard_masks_are_not_soft() -> None:
    hard = Image.fromarray(np.where(np.hypot(*np.mgrid[-150:150, -200:200]) < 90, 255, 0).astype(np.uint8))
    smoothed = hard.resize((200, 150), Image.Resampling.BILINEAR)
    assert not are_soft([np.asarray(hard), np.asarray(smoothed)])
    assert are_soft([np.asarray(soft_disc(400, 300))])
