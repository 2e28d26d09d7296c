"""What of the data is trained on, and what is held out to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decoupe.datasets.scenes import SegmentSet
from decoupe.datasets.segment_sets import MatteSegments, find_segment_set, has_part, judged_part
from decoupe.datasets.sets import Pair, find_pairs, names_of, split, split_photographs, spread
from decoupe.errors import InputError
from decoupe.training.check import DARK, EMPTY, IN_ALPHA, look_at_pair
from decoupe.training.recipe import Recipe

LOOKED_AT = 8
"""Masks of each set that are looked at before a run."""

MOST_HELD_OUT = 200
"""Pictures of each set that a share holds out, at most."""

Judged = Mapping[str, tuple[SegmentSet, Sequence[int]]]
"""What is validated on: by name the sets, and which of their pictures."""


def divide(
    recipe: Recipe, folders: Sequence[Path], validation: Sequence[Path]
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Matte sets -> training pairs and held-out pairs, both by the name of their set.

    Without validation folders, what the recipe's rules or its share hold out of each set is left out of
    training, with its near duplicates.

    Raises:
        InputError: a folder that holds no set, one that is given twice, or one of which nothing is left to
            train on.
    """
    names_of([*folders, *validation])  # a set of both would be judged on what it was learnt from
    sets, counts = {}, {}
    for folder, name in zip(folders, names_of(folders), strict=True):
        sets[name] = pairs = find_pairs(folder)
        counts[name] = 0 if validation else held_out_of(recipe, name, len(pairs))
    train, held_out = split(sets, counts, seed=recipe.split_seed)
    out = {name: pairs for name, pairs in held_out.items() if pairs}
    check_left(recipe, train)
    for pairs in train.values():
        check_masks(pairs)
    for folder, name in zip(validation, names_of(validation), strict=True):
        out[name] = find_pairs(folder)
    return train, out


def divide_segment_set(
    recipe: Recipe, folders: Sequence[Path], validation: Sequence[Path]
) -> tuple[SegmentSet, Sequence[int], Judged]:
    """A segment set, which of its pictures are trained on, and its validation part, another's, or a share."""
    if len(folders) != 1 or len(validation) > 1:
        raise InputError("segment sets are not joined: give one --data and at most one --val folder")
    scenes, judging = find_segment_set(folders[0]), (validation or folders)[0]
    if not has_part(judging, "val"):
        names_of([*folders, *validation])  # what is trained on judges nothing
    if not validation and not has_part(judging, "val"):
        counts = {scenes.name: held_out_of(recipe, scenes.name, len(scenes))}
        photographs = {scenes.name: [scenes.image_source(index) for index in range(len(scenes))]}
        train, out = split_photographs(photographs, counts, seed=recipe.split_seed)
        check_left(recipe, train)
        judged_by = {name: (scenes, indices) for name, indices in out.items() if indices}
        return scenes, train[scenes.name], judged_by
    held_out = find_segment_set(judging, judged_part(judging))
    if held_out.vocabulary != scenes.vocabulary:
        raise InputError(
            f"{judging}'s validation part has other classes than {folders[0]}'s training part: "
            "validate on the same ones"
        )
    judged = spread(range(len(held_out)), 10 * MOST_HELD_OUT)
    return scenes, range(len(scenes)), {held_out.name: (held_out, judged)}


def divide_as_classes(
    recipe: Recipe, folders: Sequence[Path], validation: Sequence[Path]
) -> tuple[SegmentSet, dict[str, int], Sequence[int], Judged]:
    """Matte sets, each a class of its name; their sizes, repeats per epoch, and what is validated on."""
    train, out = divide(recipe, folders, validation)
    if len(train) == len(out) == 1:  # whatever the two folders are called
        out = dict(zip(train, out.values(), strict=True))
    if unknown_sets := out.keys() - train.keys():
        raise InputError(
            f"{min(unknown_sets)} is validated on, and no set of that name is trained on: "
            "each set is a class of its name"
        )
    # The same names in the same order give the same classes.
    held_out = {
        name: MatteSegments({one: pairs if one == name else () for one in train})
        for name, pairs in out.items()
    }
    judged = {name: (scenes, range(len(scenes))) for name, scenes in held_out.items()}
    sets = {name: len(pairs) for name, pairs in train.items()}
    return MatteSegments(train), sets, repeats_of(recipe, train), judged


def held_out_of(recipe: Recipe, name: str, count: int) -> int:
    """How many of a set's pictures are held out where there is no validation data."""
    rules = {rule.name: rule.held_out for rule in recipe.sets}
    return rules.get(name, min(round(recipe.held_out * count), MOST_HELD_OUT))


def check_left(recipe: Recipe, train: Mapping[str, Sequence[Any]]) -> None:
    """Raise InputError for a set that was given and of which nothing is left to train on."""
    rules = {rule.name: rule.held_out for rule in recipe.sets}
    for name in (name for name, left in train.items() if not left):
        rule, other = "", "hold out fewer"
        if rules.get(name):
            rule = f" by the recipe's rule for sets of this name (held_out: {rules[name]})"
            other = "--set sets=[] to hold out a share instead"
        raise InputError(
            f"every pair of {name} is held out{rule}, or a near duplicate of one that is: "
            f"add pairs, or {other}"
        )


def check_masks(pairs: Sequence[Pair]) -> None:
    """Raise InputError where none of some masks tells a subject, for how they are saved."""
    found = [look_at_pair(pair).findings for pair in spread(pairs, LOOKED_AT)]
    for wrong in (DARK, IN_ALPHA):
        if any(wrong in one for one in found) and all(wrong in one or EMPTY in one for one in found):
            raise InputError(f"{pairs[0].mask} and others: {wrong}; decoupe data check names them all")


def repeats_of(recipe: Recipe, train: Mapping[str, Sequence[Pair]]) -> list[int]:
    """How often an epoch shows each training pair, set after set."""
    rules = {rule.name: rule.repeats for rule in recipe.sets}
    return [rules.get(name, 1) for name, pairs in train.items() for _ in pairs]
