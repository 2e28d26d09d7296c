"""Pictures as files, or inside uncompressed tar shards, from which they are read in place."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from decoupe.errors import InputError
from decoupe.inference.pictures import identified


@dataclass(frozen=True, order=True)
class Member:
    """A file inside an uncompressed tar; any process can read it without unpacking the rest.

    Attributes:
        shard: the tar.
        name: of the member, with its folders.
        offset: of its first byte in the shard.
        size: in bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    @property
    def stem(self) -> str:
        """The name without folders and suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def read(self) -> bytes:
        """Its content.

        Raises:
            InputError: the shard cannot be read.
        """
        try:
            with self.shard.open("rb") as shard:
                shard.seek(self.offset)
                return shard.read(self.size)
        except OSError as error:
            raise InputError(f"{self} cannot be read ({error}): get it again, or remove the pair") from error

    def __str__(self) -> str:
        """As messages name it: shard and member."""
        return f"{self.shard}/{self.name}"


Source = Path | Member
"""Where a picture is."""


def members(shard: Path) -> list[Member]:
    """The files of a tar, in its order; hidden ones are left out.

    Raises:
        InputError: it cannot be read, or it is compressed.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            return [
                Member(shard, info.name, info.offset_data, info.size)
                for info in archive
                if info.isfile() and not PurePosixPath(info.name).name.startswith(".")
            ]
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{shard} cannot be read as a shard ({error}): expected an uncompressed .tar"
        ) from error


def predictable(source: Source) -> Path | bytes:
    """A picture as a predictor takes it, which reads files in its own way."""
    return source if isinstance(source, Path) else source.read()


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """A picture, open for reading.

    Raises:
        InputError: it cannot be read; the message names it.
    """
    try:
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source.read()) as stream,
            identified(stream) as file,
        ):
            yield file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{source} cannot be read ({error}): get it again, or remove the pair") from error
