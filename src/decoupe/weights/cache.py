"""What lies in the cache of downloaded weights, and taking it away again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoupe.errors import InputError, unknown
from decoupe.weights.download import cache_dir, marker_of
from decoupe.weights.registry import CATALOGUE

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo


@dataclass(frozen=True)
class Cached:
    """The weights of one model in one revision of its repository.

    Attributes:
        name: of the catalogue, or the hub id of a repository that it does not list.
        revision: the commit.
        megabytes: on disk, 10^6 bytes, with what it shares with other revisions.
        current: whether this is the revision that the catalogue names; of other repositories always.
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
    # The hub's own cache is every program's: only what was verified came by decoupe.
    ours = {
        file.file_path.relative_to(revision.snapshot_path).as_posix(): file
        for file in revision.files
        if marker_of(file.blob_path).exists()
    }
    if not ours:
        return []
    commit, commits = revision.commit_hash, (revision.commit_hash, *revision.refs)
    whole, size = str(revision.snapshot_path), revision.size_on_disk / 1e6
    rows = [model for model in CATALOGUE.values() if model.repo == repository.repo_id]
    here = [row for row in rows if row.file in ours]
    if not here:
        return [Cached(repository.repo_id, commit, size, not rows, whole)]
    if len(rows) == 1:
        return [Cached(row.name, commit, size, row.revision in commits, whole) for row in here]
    files = [(row, ours[row.file]) for row in here]
    return [
        Cached(row.name, commit, file.size_on_disk / 1e6, row.revision in commits, str(file.file_path))
        for row, file in files
    ]


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
    """Delete them; how many megabytes that freed."""
    from huggingface_hub import scan_cache_dir

    paths = {entry.path for entry in entries}
    scanned, freed = scan_cache_dir(cache_dir()), 0
    for repository in scanned.repos:
        files = {file for revision in repository.revisions for file in revision.files}
        gone = {file for file in files if str(file.file_path) in paths}
        kept = {file.blob_path for file in files - gone}
        for file in gone:
            file.file_path.unlink()
            if file.blob_path not in kept:
                freed += file.size_on_disk
                for rest in (file.blob_path, marker_of(file.blob_path)):
                    rest.unlink(missing_ok=True)
        whole = [one.commit_hash for one in repository.revisions if str(one.snapshot_path) in paths]
        if whole:
            # Of this repository alone, so that nothing else goes whatever its revision is called.
            plan = dataclasses.replace(scanned, repos=frozenset({repository})).delete_revisions(*whole)
            plan.execute()
            freed += plan.expected_freed_size
    return freed / 1e6
