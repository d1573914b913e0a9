"""The error that a user can fix, the first line of others, and the import of modules that only an extra installs."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

# Characters of a word, such as a path, and of a sentence that are printed; few of our own sentences have over 400.
_MOST_OF_A_WORD, _MOST_OF_A_SENTENCE = 200, 600
# What is wrong with a path itself, not with the disk or the file behind it.
_OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ)


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


def shortened(sentence: str) -> str:
    """Return a sentence on one line, without the middle of what is too long to be read: of a word, then of all."""

    def cut(text: str, most: int) -> str:
        return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 3 :]}"

    # Each word is looked at alone; a pattern of the whole would take all words of a text of 5 MB apart.
    words = [cut(word, _MOST_OF_A_WORD) for word in sentence[: 2 * 10**6].split()]
    return cut(" ".join(words), _MOST_OF_A_SENTENCE)


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


def is_of_path(error: OSError) -> bool:
    """Whether a path itself is wrong: too long, a link to itself, below what is no folder."""
    return error.errno in _OF_A_PATH


def fault_of(error: Exception) -> tuple[str, bool]:
    """Say what went wrong outside of us, as the begin of a sentence, and whether it is the path that the user gave."""
    if isinstance(error, MemoryError):
        return "the memory is full", False
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error).rstrip("."), False
    name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{name}{error.strerror}", bool(name) and is_of_path(error)


def why_no_file(path: Path) -> str:
    """Say what a path is that is not a regular file, as the end of a sentence that begins with the path."""
    try:
        return "is a folder" if stat.S_ISDIR(path.stat().st_mode) else "is no regular file"
    except OSError as error:
        is_link = error.errno == errno.ENOENT and path.is_symlink()
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return "is a link to nothing" if is_link else "does not exist" if missing else f"is no file ({error.strerror})"


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
