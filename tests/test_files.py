"""A file is there whole or not at all, and what the system refuses is named by its path."""

import errno
import os

import pytest

from fmlora_lab.files import (
    check_writable,
    make_folder,
    there,
    where_it_can_be_kept,
    write_atomically,
    write_together,
)

pytestmark = pytest.mark.unit


def words(text: str):
    return lambda file: file.write(text.encode())


def files(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def full(monkeypatch):
    """`full(n)`: the disk has room for n files more; as the system says it, without a path."""
    sync = os.fsync

    def fill(room: int) -> None:
        left = [room]

        def fsync(handle):
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            sync(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path, full):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, words("before"))
    full(0)
    with pytest.raises(OSError, match="No space left on device") as refused:
        write_atomically(path, words("after"))
    assert refused.value.filename == str(path) and refused.value.errno == errno.ENOSPC
    assert files(tmp_path) == {"new/a.txt": "before"}


def test_what_belongs_together_is_there_together_or_not_at_all(tmp_path, full):
    both = {tmp_path / "a": words("a"), tmp_path / "b" / "c": words("c")}
    full(1)
    with pytest.raises(OSError, match="No space left") as refused:
        write_together(both)
    assert refused.value.filename == str(tmp_path / "b" / "c") and files(tmp_path) == {}
    full(2)
    write_together(both)
    assert files(tmp_path) == {"a": "a", "b/c": "c"}


@pytest.mark.parametrize(
    ("path", "named", "kind"),
    [
        ("file/a.txt", "file", NotADirectoryError),
        ("file/folder/a.txt", "file/folder", NotADirectoryError),
        ("folder", "folder", IsADirectoryError),
        ("x" * 256, "x" * 256, OSError),
        ("loop/a.txt", "loop", OSError),
    ],
)
def test_whatever_stands_in_the_way_is_named(tmp_path, path, named, kind):
    (tmp_path / "file").write_text("words")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(kind) as refused:
        write_atomically(tmp_path / path, words("a"))
    assert refused.value.filename == str(tmp_path / named)
    assert files(tmp_path) == {"file": "words"}


def test_a_name_as_long_as_the_system_takes_is_taken(tmp_path):
    write_atomically(tmp_path / ("x" * 255), words("a"))
    assert files(tmp_path) == {"x" * 255: "a"}


def test_a_folder_that_is_a_file_is_said_to_be_none(tmp_path):
    (tmp_path / "file").write_text("words")
    for refused in (make_folder, check_writable):
        with pytest.raises(NotADirectoryError) as error:
            refused(tmp_path / "file")
        assert error.value.filename == str(tmp_path / "file")
    assert not there(tmp_path / "file" / "below")


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "not" / "there")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_kept_is_left_and_a_full_disk_is_said():
    for refused in (errno.EROFS, errno.EACCES, errno.EPERM):
        with where_it_can_be_kept():
            raise OSError(refused, os.strerror(refused))
    with pytest.raises(OSError, match="No space"), where_it_can_be_kept():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
