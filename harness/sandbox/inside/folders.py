"""Work folders: one per program, and their removal whatever a program has left in them. Used on both sides of
the wall.
"""

from __future__ import annotations

import contextlib
import os


def remove_contents(folder: str) -> None:
    """Empty a folder without recursion: folders inside folders are moved up first, so no depth and no length
    of a path matters.

    Links are removed, never followed. Raises OSError for what cannot be removed; nothing may change the
    folder meanwhile.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _open_up(top)
        prefix, count = f"moved-{os.urandom(8).hex()}-", 0
        while names := os.listdir(top):
            for name in names:
                inner = _unlink_or_open(name, top)
                if inner is None:
                    continue
                try:
                    for child in os.listdir(inner):
                        deeper = _unlink_or_open(child, inner)
                        if deeper is not None:
                            os.close(deeper)
                            count += 1
                            os.rename(child, prefix + str(count), src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _unlink_or_open(name: str, parent: int) -> int | None:
    """Remove what is no folder; a folder is opened, with all rights to its owner, since it can be moved and
    emptied only with them.
    """
    try:
        os.unlink(name, dir_fd=parent)
        return None
    except (IsADirectoryError, PermissionError):
        pass
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent)
        return None
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _open_up(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.fchmod(handle, 0o700)


class WorkFolders:
    """The work folders of one fork server, below a folder that programs can list and pass through but not
    change.

    base: absolute path, owned by this process' user. A program owns its folder's contents only; its
    system-call filter refuses changes of mode, so neither the base nor the folder's own entry can be touched.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.count = 0
        os.chmod(base, 0o500)

    def create(self) -> str:
        """A new empty folder."""
        self.count += 1
        path = f"{self.base}/{self.count}"
        os.chmod(self.base, 0o700)
        os.mkdir(path, 0o700)
        os.chmod(self.base, 0o500)
        return path

    def remove(self, path: str) -> bool:
        """Remove a folder with its contents; whether that left nothing."""
        os.chmod(self.base, 0o700)
        with contextlib.suppress(OSError):
            try:
                os.rmdir(path)
            except OSError:
                remove_contents(path)
                os.rmdir(path)
        os.chmod(self.base, 0o500)
        return not os.listdir(self.base)


def usage(folder: str, most: int) -> tuple[int, int]:
    """Bytes (as the disk counts them) and entries below a folder; the count stops at `most` entries."""
    size = entries = 0
    todo = [folder]
    while todo and entries < most:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as found:
            for entry in found:
                entries += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    return size, entries
