"""Documents from files and datasets: what is read, and what is refused."""

from pathlib import Path

import pytest

from longpipe.data import DiskDataset, TextFiles, find_paths
from longpipe.data import text as text_module
from longpipe.errors import DataError


def test_a_file_is_a_document_unless_a_separator_is_given(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\ntwo\n\n  \n\nthree")
    assert list(TextFiles((file,)).documents()) == ["one\n\ntwo\n\n  \n\nthree"]
    assert list(TextFiles((file,), separator="\n\n").documents()) == ["one", "two", "three"]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 100])
def test_characters_and_separators_across_blocks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(text_module, "_BLOCK_BYTES", block_bytes)
    file = tmp_path / "a.txt"
    file.write_text("é€<|end|>ß<|end|>😀\r\n", newline="")
    assert list(TextFiles((file,), separator="<|end|>").documents()) == ["é€", "ß", "😀\r\n"]


@pytest.mark.parametrize("block_bytes", [1, 2, 5, 100])
@pytest.mark.parametrize(("content", "place"), [(b"abcd\xff\xfee", 4), (b"ab\xe2\x82", 2)])
def test_bytes_that_are_not_utf8_are_named_with_their_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
    content: bytes,
    place: int,
) -> None:
    monkeypatch.setattr(text_module, "_BLOCK_BYTES", block_bytes)
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.txt: not UTF-8 text at byte {place} .*bad_text"):
        list(TextFiles((file,)).documents())
    (document,) = TextFiles((file,), bad_text="replace").documents()
    assert "\ufffd" in document


def test_globs_are_sorted_and_a_pattern_without_a_match_is_an_error(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "in/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = find_paths([f"{tmp_path}/c.md", f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "c.md",
        "a.txt",
        "b.txt",
        "in/d.txt",
    ]
    with pytest.raises(DataError, match="matches no file"):
        find_paths([f"{tmp_path}/*.py"])
    with pytest.raises(DataError, match=r"for a folder write .*/\*\*/\*\.txt"):
        find_paths([str(tmp_path)])
    with pytest.raises(DataError, match="empty"):
        find_paths([])


def test_the_fingerprint_follows_contents_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    before = TextFiles((file,)).fingerprint()
    assert TextFiles((file,)).fingerprint() == before
    assert TextFiles((file,), separator="\n").fingerprint() != before
    file.write_text("other")
    assert TextFiles((file,)).fingerprint() != before


def test_a_dataset_on_disk_gives_its_texts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set"
    rows = {"text": ["one", " ", "two"], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    assert list(DiskDataset((folder,)).documents()) == ["one", "two"]
    with pytest.raises(DataError, match=r"no column 'body'; set data.text_field to one of text, n"):
        list(DiskDataset((folder,), "body").documents())
    with pytest.raises(DataError, match="is int, not text"):
        list(DiskDataset((folder,), "n").documents())
    datasets.DatasetDict(train=datasets.load_from_disk(str(folder))).save_to_disk(
        str(tmp_path / "splits")
    )
    with pytest.raises(DataError, match=r"several splits \(train\)"):
        list(DiskDataset((tmp_path / "splits",)).documents())
    with pytest.raises(DataError, match="not a dataset"):
        list(DiskDataset((tmp_path,)).documents())


def test_a_missing_datasets_package_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(text_module, "import_module", absent)
    with pytest.raises(DataError, match=r"pip install 'longpipe\[datasets\]'"):
        list(DiskDataset((tmp_path,)).documents())
