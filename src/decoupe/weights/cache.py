"""What lies in the cache of downloaded weights, and taking it away again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoupe.errors import InputError, unknown
from decoupe.weights.download import cache_dir, downloaded_marker, marker_of
from decoupe.weights.registry import CATALOGUE

if TYPE_CHECKING:
    from huggingface_hub import CachedFileInfo, CachedRepoInfo, CachedRevisionInfo


@dataclass(frozen=True)
class Cached:
    """The weights of one model in one revision of its repository.

    Attributes:
        name: of the catalogue, or the hub id of a repository that it does not list.
        revision: the commit.
        megabytes: on disk, 10^6 bytes, with what it shares with other revisions.
        current: whether it is to stay: the catalogue names this revision, or another program may use it; of
            other repositories always.
        path: of the revision's folder, or of the file where models share a repository.
    """

    name: str
    revision: str
    megabytes: float
    current: bool
    path: str


def cached() -> list[Cached]:
    """Every model that decoupe has downloaded, by name; what other programs keep there is left out."""
    from huggingface_hub import scan_cache_dir

    if not cache_dir().is_dir():
        return []
    scanned = scan_cache_dir(cache_dir())
    found = [
        one
        for repository in scanned.repos
        for revision in repository.revisions
        for one in _in(repository, revision)
    ]
    return sorted(found, key=lambda one: (one.name, not one.current, one.revision))


def _in(repository: CachedRepoInfo, revision: CachedRevisionInfo) -> list[Cached]:
    """The models of one revision."""
    ours = _downloaded(repository, revision)
    if not ours:
        return []
    rows = [model for model in CATALOGUE.values() if model.repo == repository.repo_id]
    here = [row for row in rows if row.file in ours]
    # The hub's cache is every program's: one asked for the revision by a name, or added files of its own.
    shared = bool(revision.refs) or len(ours) < len(_weights(revision))
    commit, commits = revision.commit_hash, (revision.commit_hash, *revision.refs)
    whole, size = str(revision.snapshot_path), sum(file.size_on_disk for file in ours.values()) / 1e6
    if not here:
        return [Cached(repository.repo_id, commit, size, not rows or shared, whole)]
    if len(rows) == 1:
        return [Cached(row.name, commit, size, row.revision in commits or shared, whole) for row in here]
    files = [(row, ours[row.file]) for row in here]
    return [
        Cached(
            row.name, commit, file.size_on_disk / 1e6, row.revision in commits or shared, str(file.file_path)
        )
        for row, file in files
    ]


def _weights(revision: CachedRevisionInfo) -> frozenset[CachedFileInfo]:
    """The files of a revision, but for what is remembered beside them where the cache has no links."""
    marks = {marker_of(file.file_path) for file in revision.files}
    return frozenset(file for file in revision.files if file.file_path not in marks)


def _downloaded(repository: CachedRepoInfo, revision: CachedRevisionInfo) -> dict[str, CachedFileInfo]:
    """What decoupe downloaded of a revision, by name in the repository; no links to files elsewhere."""
    named = {file.file_path.relative_to(revision.snapshot_path).as_posix(): file for file in revision.files}
    return {
        name: file
        for name, file in named.items()
        if downloaded_marker(repository.repo_path, revision.commit_hash, name).exists()
        and file.blob_path.is_relative_to(repository.repo_path)
    }


def superfluous(names: Collection[str] = ()) -> list[Cached]:
    """What can go: the models of these names; without names, revisions that the catalogue no longer names.

    Raises:
        InputError: a name that is not in the cache.
    """
    here = cached()
    known = {one.name for one in here}
    for name in names:
        if name not in known:
            raise InputError(unknown("cached model", name, known) if known else f"{name} is not in the cache")
    return [one for one in here if (one.name in names if names else not one.current)]


def remove(entries: Collection[Cached]) -> float:
    """Delete them, and nothing that other programs downloaded; how many megabytes that freed."""
    from huggingface_hub import scan_cache_dir

    paths, freed = {entry.path for entry in entries}, 0
    scanned = scan_cache_dir(cache_dir())
    for repository in scanned.repos:
        gone = {
            file
            for revision in repository.revisions
            for file in _downloaded(repository, revision).values()
            if not paths.isdisjoint((str(file.file_path), str(revision.snapshot_path)))
        }
        kept = {file.blob_path for revision in repository.revisions for file in revision.files - gone}
        blobs = {file.blob_path: file.size_on_disk for file in gone if file.blob_path not in kept}
        empty = [one for one in repository.revisions if one.files and _weights(one) <= gone]
        # The hub's library also knows what it shares between repositories. Files go as folders do.
        plan = dataclasses.replace(
            scanned.delete_revisions(),
            blobs=frozenset(blobs) - {file.file_path for file in gone},
            snapshots=frozenset(file.file_path for file in gone),
        )
        plan.execute()
        freed += sum(blobs.values())
        for blob in blobs:
            marker_of(blob).unlink(missing_ok=True)
        for revision in empty:
            shutil.rmtree(revision.snapshot_path)
            shutil.rmtree(downloaded_marker(repository.repo_path, revision.commit_hash))
            for name in revision.refs:
                (repository.repo_path / "refs" / name).unlink()
        if len(empty) == len(repository.revisions) > 0:
            shutil.rmtree(repository.repo_path)
    return freed / 1e6
