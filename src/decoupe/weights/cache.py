"""What lies in the cache of downloaded weights, and taking it away again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from decoupe.errors import InputError, unknown
from decoupe.weights.download import cache_dir
from decoupe.weights.registry import CATALOGUE


@dataclass(frozen=True)
class Cached:
    """One revision of one repository's weights.

    Attributes:
        name: of the catalogue, or the hub id of a repository that it does not list.
        revision: the commit.
        megabytes: on disk, 10^6 bytes, with what it shares with other revisions.
        current: whether this is the revision that the catalogue names; of other repositories always.
        path: of its folder.
    """

    name: str
    revision: str
    megabytes: float
    current: bool
    path: str


def cached() -> list[Cached]:
    """Every revision that decoupe has downloaded, by name; what other programs keep there is left out."""
    from huggingface_hub import scan_cache_dir

    if not cache_dir().is_dir():
        return []
    models = {model.repo: model for model in CATALOGUE.values() if model.repo is not None}
    found = []
    for repository in scan_cache_dir(cache_dir()).repos:
        model = models.get(repository.repo_id)
        ours = model is not None or any((repository.repo_path / "blobs").glob("*.verified"))
        for revision in repository.revisions if ours else ():
            current = model is None or model.revision in (revision.commit_hash, *revision.refs)
            name = repository.repo_id if model is None else model.name
            megabytes = revision.size_on_disk / 1e6
            found.append(Cached(name, revision.commit_hash, megabytes, current, str(revision.snapshot_path)))
    return sorted(found, key=lambda one: (one.name, not one.current, one.revision))


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
    scanned = scan_cache_dir(cache_dir())
    # Of their repositories alone, so that nothing else goes whatever its revision is called.
    touched = {repo for repo in scanned.repos if paths & {str(one.snapshot_path) for one in repo.revisions}}
    only = dataclasses.replace(scanned, repos=frozenset(touched))
    plan = only.delete_revisions(*(entry.revision for entry in entries))
    plan.execute()
    return plan.expected_freed_size / 1e6
