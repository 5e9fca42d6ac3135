"""Files and folders that are whole or absent: written beside their place under another name, and renamed.

Beside `out` lie, while something is being written there and after a run that was killed, `.out.lock` (held by
the process that writes; a lock ends with its process) and `.out.partial` (what has been written so far). The
next writer takes both over.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim.inputs.errors import InputError

EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux's renameat2(2)


@contextmanager
def locked(target: Path) -> Iterator[Path]:
    """Hold a file or folder for this process, its missing parents made; yields the path with links resolved.

    InputError where another process holds it, or nothing can be written beside it.
    """
    named, target = target, target.resolve()
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(file):
                os.close(file)
                raise InputError(f"{named} is being written by another run; name another, or wait for it")
            # The one that held the lock may have removed its file in between: then this is a lock on nothing.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), lock.stat()):
                    break
            os.close(file)
    except OSError as error:
        raise unwritable(named, error) from error
    try:
        yield target
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(file)


def _lock(file: int) -> bool:
    """Whether the lock is this process's now."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError | PermissionError):
            return False
        # A file system without locks (some network ones): better unlocked than not at all.
    return True


def unwritable(path: Path, error: OSError) -> InputError:
    """What is said where something cannot be written."""
    return InputError(f"{path} cannot be written: {error.strerror or error}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under the yielded name; when the block ends without an error it has its own."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write files into the yielded folder; when the block ends without an error it takes the place of
    `folder`, of which nothing stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _take_place(partial, folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, folder: Path) -> None:
    """At every instant, `folder` is the old one or the new one, wherever the system can exchange names."""
    if not folder.exists():
        partial.rename(folder)
    elif not _exchanged(partial, folder):
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0


def refuse_what_is_there(path: Path, *, force: bool, own: Collection[str] = ()) -> None:
    """InputError for a folder that holds files, unless `force`; with it, for one that holds others than
    those named in `own`: those would be lost.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder")
    if not path.is_dir():
        return
    there = sorted(entry.name for entry in path.iterdir())
    if there and not force:
        raise InputError(f"{path} already holds files; name another folder, or add --force (force=True)")
    foreign = [name for name in there if name not in own]
    if foreign:
        raise InputError(
            f"{path} holds {foreign[0]!r}, "
            "which no run has left; --force would remove it: name another folder"
        )


def refuse_existing_file(path: Path, *, force: bool) -> None:
    """InputError for a folder, and for a file that exists, unless `force`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, as in {path / 'table.csv'}")
    if path.exists() and not force:
        raise InputError(f"{path} exists; name another file, or add --force")


def check_writable(path: Path) -> None:
    """InputError where a file could not be made in the folder `path`, which is made with its parents."""
    from tempfile import TemporaryFile

    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise unwritable(path, error) from error
