"""The error that a user can fix, the first line of others, and the import of modules that only an extra installs."""

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
