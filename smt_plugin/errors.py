"""The error that a user can fix, the first line of others, and the import of modules that only an extra installs."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType


class BadInput(Exception):
    """Something the user gave is wrong; the message is one sentence that names it and the fix.

    The command line prints the message alone and exits with status 2. Where several things are wrong that are better
    mended together, there is a sentence for each.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


def first_line(error: object) -> str:
    """Return the first line of an error or of its message; of an error without a message, its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the file system name `path` where they name none, and have memory that runs out be such an error.

    Raises:
        OSError: whatever reading or writing raises; a MemoryError has become one.
    """
    try:
        yield
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from None
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def why_no_file(path: Path) -> str:
    """Say what a path is that is not a regular file, as the end of a sentence that begins with the path."""
    return "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` of this package installs.

    Raises:
        BadInput: the module is not installed; the message holds the install command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise BadInput(f"{error.name} is not installed; install it with: pip install 'smt-plugin[{extra}]'") from None
