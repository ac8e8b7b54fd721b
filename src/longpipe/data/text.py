"""Documents from text: local files and Hugging Face datasets on disk."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape, glob, has_magic
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from longpipe.errors import DataError

_BLOCK_BYTES = 1 << 20
_PACKAGE = "package:"


class DocumentSource(Protocol):
    """Where documents come from: a stream of texts, and a name for exactly this content."""

    def documents(self) -> Iterator[str]:
        """The texts, in a fixed order; a second call gives the same ones."""

    def fingerprint(self) -> str:
        """Changes when the documents may have changed; cheap, so that each start can ask."""

    def describe(self) -> str:
        """A few words for people: what this is and where it lies."""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Text files in UTF-8; one document per file, or several between separators."""

    paths: tuple[Path, ...]
    separator: str = ""
    """Text between documents, such as "\\n\\n" or "<|endoftext|>"; empty: a file is a document."""
    bad_text: Literal["stop", "replace"] = "stop"
    """What to do with bytes that are not UTF-8: raise, or put U+FFFD in their place."""

    def documents(self) -> Iterator[str]:
        """Every document that is not blank, file by file; reads a block at a time."""
        for path in self.paths:
            for text in _split(self._blocks(path), self.separator):
                if text.strip():
                    yield text

    def fingerprint(self) -> str:
        """Of paths, sizes and times of change, and of how the files are read."""
        return fingerprint_files(self.paths, self.separator, self.bad_text)

    def describe(self) -> str:
        """Count and first name."""
        return f"{len(self.paths)} text file(s), the first {self.paths[0]}"

    def _blocks(self, path: Path) -> Iterator[str]:
        errors = "strict" if self.bad_text == "stop" else "replace"
        decoder = codecs.getincrementaldecoder("utf-8")(errors)
        done = 0
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    pending = len(decoder.getstate()[0])
                    yield decoder.decode(block)
                    done += len(block)
                pending = len(decoder.getstate()[0])
                yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            place = done - pending + error.start
            raise DataError(
                f"{path}: not UTF-8 text at byte {place} ({error.reason}). Convert the file, "
                'leave it out of data.paths, or set data.bad_text = "replace"'
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class DiskDataset:
    """Datasets that `datasets.Dataset.save_to_disk` wrote; each row's text is a document."""

    paths: tuple[Path, ...]
    text_field: str = "text"

    def documents(self) -> Iterator[str]:
        """The text of every row that is not blank, dataset by dataset."""
        for path in self.paths:
            yield from self._texts(path)

    def _texts(self, path: Path) -> Iterator[str]:
        dataset = _load_dataset(path)
        columns: Sequence[str] = dataset.column_names
        if self.text_field not in columns:
            raise DataError(
                f"{path}: no column {self.text_field!r}; set data.text_field to one of "
                f"{', '.join(columns)}"
            )
        for index, row in enumerate(dataset.select_columns([self.text_field])):
            text = row[self.text_field]
            if not isinstance(text, str):
                raise DataError(
                    f"{path}: row {index} of column {self.text_field!r} is "
                    f"{type(text).__name__}, not text; set data.text_field to a column of texts"
                )
            if text.strip():
                yield text

    def fingerprint(self) -> str:
        """Of names, sizes and times of change of the dataset's files, and of the column."""
        files = sorted(p for path in self.paths for p in path.rglob("*") if p.is_file())
        return fingerprint_files(files, "dataset", self.text_field)

    def describe(self) -> str:
        """Count, first folder and column."""
        return (
            f"{len(self.paths)} dataset(s), the first {self.paths[0]}, column {self.text_field!r}"
        )


def find_paths(patterns: Iterable[str], *, folders: bool = False) -> tuple[Path, ...]:
    """Files, or folders, that paths and globs name, each once: by pattern, sorted within one.

    `package:NAME/...` lies in the folder of an installed Python package, which is not imported.

    Raises:
        DataError: a pattern matches nothing; nothing is left out silently.
    """
    found: dict[Path, None] = {}
    what = "folder" if folders else "file"
    for pattern in patterns:
        place = _in_package(pattern) if pattern.startswith(_PACKAGE) else pattern
        names = sorted(glob(place, recursive=True)) if has_magic(place) else [place]
        matches = [p for p in map(Path, names) if (p.is_dir() if folders else p.is_file())]
        if not matches:
            is_folder = not folders and Path(pattern).is_dir()
            hint = f"; for a folder write {pattern}/**/*.txt" if is_folder else ""
            raise DataError(f"data.paths: {pattern!r} matches no {what} (in {Path.cwd()}){hint}")
        found.update(dict.fromkeys(matches))
    if not found:
        raise DataError("data.paths is empty: name at least one file or folder")
    return tuple(found)


def _in_package(pattern: str) -> str:
    """The path that `package:NAME/...` means."""
    name, _, rest = pattern.removeprefix(_PACKAGE).partition("/")
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data.paths: {pattern!r}: no package {name!r} is installed for this Python "
            f"(pip install {name}); the form is {_PACKAGE}NAME/folder/*.txt"
        )
    return str(Path(escape(spec.submodule_search_locations[0])) / rest)


def fingerprint_files(paths: Iterable[Path], *settings: str) -> str:
    """A hash of paths, sizes and times of change, with the settings that matter."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        digest.update(repr((str(path), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def _split(blocks: Iterable[str], separator: str) -> Iterator[str]:
    """Pieces between separators, holding no more than one document and one block."""
    held: list[str] = []
    for block in blocks:
        if not separator:
            held.append(block)
            continue
        # A separator may lie across two blocks, so the unfinished piece is joined first.
        *whole, rest = ("".join(held) + block).split(separator)
        yield from whole
        held = [rest]
    yield "".join(held)


def _load_dataset(path: Path) -> Any:
    try:
        # An extra, and slow to import: most runs read text or tokens.
        datasets = import_module("datasets")
    except ImportError as error:
        raise DataError(
            "reading a Hugging Face dataset needs the package `datasets`: "
            "pip install 'longpipe[datasets]'"
        ) from error
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a dataset written by save_to_disk: {error}") from error
    if isinstance(dataset, datasets.DatasetDict):
        raise DataError(
            f"{path} holds several splits ({', '.join(dataset)}): name one in data.paths, "
            f"such as {path / next(iter(dataset))}"
        )
    return dataset
