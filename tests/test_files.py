"""Folders written whole or not at all, and what is left where a process was killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pconv_deploy.errors import OutputError, UsageError
from pconv_deploy.files import atomic_file, atomic_folder, parent_made, scratch_folder

# Dies inside of the block, as by kill -9; `swapped` as if between the two moves at its end.
KILLED = """
import os, sys
from pathlib import Path
from pconv_deploy.files import atomic_folder
path, swapped = Path(sys.argv[1]), sys.argv[2] == "swapped"
with atomic_folder(path, overwrite=True, replaceable=lambda _: True) as fresh:
    (fresh / "half").touch()
    if swapped:
        path.rename(fresh.parent / "old")
    os._exit(9)
"""


def killed(path: Path, when: str = "writing") -> None:
    command = [sys.executable, "-c", KILLED, str(path), when]
    assert subprocess.run(command, check=False).returncode == 9


def write(path: Path, *, overwrite: bool = False) -> None:
    with atomic_folder(path, overwrite=overwrite, replaceable=lambda _: True) as fresh:
        (fresh / "whole").touch()


def touched(path: Path) -> Path:
    path.touch()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    killed(tmp_path / "x.engine")
    killed(tmp_path / "y.engine")
    assert len(names(tmp_path)) == 2
    write(tmp_path / "x.engine")
    assert len(names(tmp_path)) == 2  # another's leavings are not its own
    write(tmp_path / "y.engine")
    assert names(tmp_path) == ["x.engine", "y.engine"]
    assert names(tmp_path / "x.engine") == ["whole"]


def test_what_was_about_to_be_replaced_returns(tmp_path: Path) -> None:
    write(tmp_path / "x.engine")
    killed(tmp_path / "x.engine", "swapped")
    assert not (tmp_path / "x.engine").exists()
    with pytest.raises(UsageError, match="already exists"):
        write(tmp_path / "x.engine")
    assert names(tmp_path) == ["x.engine"]
    assert names(tmp_path / "x.engine") == ["whole"]


def test_a_writer_who_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with atomic_folder(path, overwrite=True, replaceable=lambda _: True) as slower:
        write(path)
        assert slower.is_dir()
        (slower / "slower").touch()
    assert names(tmp_path) == ["x.engine"]
    assert names(path) == ["slower"]


def test_folders_that_were_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), parent_made(tmp_path / "a" / "b" / "x"):
        (tmp_path / "none").read_bytes()
    assert names(tmp_path) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError), parent_made(tmp_path / "there" / "x"):
        (tmp_path / "there").mkdir()
    assert names(tmp_path) == ["there"]


def test_folders_that_were_made_stay_where_something_is_in_them(tmp_path: Path) -> None:
    with parent_made(tmp_path / "a" / "b" / "x"):
        pass
    assert names(tmp_path / "a") == ["b"]
    theirs = tmp_path / "c" / "somebody's"
    with pytest.raises(NotADirectoryError), parent_made(tmp_path / "c" / "d" / "x"):
        touched(theirs).rmdir()
    assert names(tmp_path / "c") == ["somebody's"]
    with pytest.raises(OutputError, match="cannot write"), parent_made(theirs / "x"):
        pass


def test_a_write_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "repo" / "model"
    with (
        pytest.raises(IsADirectoryError),
        atomic_folder(path, overwrite=False, replaceable=lambda _: True) as fresh,
    ):
        fresh.write_bytes(b"")
    assert names(tmp_path) == []


def test_a_scratch_folder_is_private_and_clears_what_killed_processes_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, pconv_deploy.files as files\n"
        "with files.scratch_folder() as work:\n"
        "    (work / 'half').touch()\n"
        "    os._exit(9)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert len(names(tmp_path)) == 1
    with scratch_folder() as first, scratch_folder() as second:
        assert first.stat().st_mode & 0o077 == 0
        assert sorted([first.name, second.name]) == names(tmp_path)
    assert names(tmp_path) == []


def test_a_scratch_folder_on_a_full_disk_says_what_to_do() -> None:
    with (
        pytest.raises(OutputError, match=r"No space left on device.*set TMPDIR"),
        scratch_folder(),
    ):
        Path("/dev/full").write_bytes(b"x")


KILLED_FILE = """
import os, sys
from pathlib import Path
from pconv_deploy.files import atomic_file
with atomic_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    if sys.argv[2] == "stays":
        print(partial.name, flush=True)
        sys.stdin.read()
    os._exit(9)
"""


def test_files_of_killed_processes_are_cleared_and_those_being_written_stay(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", KILLED_FILE, str(tmp_path / "a.png")]
    assert subprocess.run([*command, "dies"], check=False).returncode == 9
    (tmp_path / ".mine.partial.png").touch()  # not named as ours are
    os.mkfifo(tmp_path / f".{'0' * 32}.partial")
    assert len(names(tmp_path)) == 3
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "stays"], stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        being_written = writer.stdout.readline().strip()
        with atomic_file(tmp_path / "b.txt") as partial:
            partial.write_text("whole")
        left = {f".{'0' * 32}.partial", ".mine.partial.png", "b.txt"}
        assert set(names(tmp_path)) == left | {being_written}
        writer.stdin.close()
    assert (tmp_path / "b.txt").read_text() == "whole"


def test_a_file_gets_the_usual_permissions_whoever_writes_it(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_file(tmp_path / "x") as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT, 0o600))
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert names(tmp_path) == ["usual", "x"]


def test_a_loop_of_links_is_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    inside = tmp_path / "loop" / "x"
    with pytest.raises(OutputError, match="cannot write"), atomic_file(inside):
        pass
    with (
        pytest.raises(OutputError, match="cannot write"),
        atomic_folder(inside, overwrite=True, replaceable=lambda _: True),
    ):
        pass


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write .*/file/a\.png: .*/file is no folder"),
        atomic_file(tmp_path / "file" / "a.png"),
    ):
        pass
