"""What is written and read whole or line by line: texts, JSON files, JSON lines; locks, hashes, the cache folder."""

import codecs
import csv
import errno
import fcntl
import hashlib
import io
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec
import orjson

from smt_plugin.errors import BadInput, naming, why_no_file

Row = TypeVar("Row")
_NOT_BLANK = r"\S"
_PARTIAL = ".partial"
_LARGE = 1 << 24  # bytes; smaller files are hashed as fast as a hash is looked up
_SETTLED = 2 * 10**9  # nanoseconds: FAT's clock has the longest ticks, of two seconds
Text = Annotated[str, msgspec.Meta(pattern=_NOT_BLANK)]  # the type of a field that must hold more than white space
# Of a field that becomes a part of a path: no folder, and no longer than file systems take with an ending.
FILE_NAME = r"^(?!\.{1,2}$)(?=.*\S)[^/\\\x00-\x1f\x7f]{1,200}$(?!\n)"
_SAID = {_NOT_BLANK: "that is not blank", FILE_NAME: "that is the name of a file"}

# UTF-32 first, whose mark begins with that of UTF-16.
_WIDE = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@contextmanager
def reading(
    path: Path, mend: str = "fix or remove it", buffering: int = DEFAULT_BUFFER_SIZE
) -> "Iterator[BufferedReader[FileIO]]":
    """Open a file that is there to be read; whatever goes wrong with it while it is read is told by its path.

    Args:
        mend: what to do about a file that is none or cannot be read, the end of the sentence.

    Raises:
        BadInput: it is missing or no regular file, cannot be read, or is more than the memory holds.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise BadInput(f"{path} {why_no_file(path)}; {mend}.")
        with naming(path), BufferedReader(FileIO(path), buffering) as file:
            yield file
    except OSError as error:
        if error.filename != str(path):
            raise
        is_there = error.errno in (errno.ENOMEM, errno.EIO) or path.is_file()
        why = f"cannot be read ({error.strerror})" if is_there else why_no_file(path)
        raise BadInput(f"{path} {why}; {mend}.") from None


def read_bytes(path: Path, mend: str = "fix or remove it") -> bytes:
    """Return all of a file; raises BadInput as `reading` does."""
    with reading(path, mend) as file:
        return file.read()


def read_text(path: Path, mend: str = "fix or remove it") -> str:
    """Return a text; raises BadInput as `reading` does, and where it is not UTF-8."""
    content = read_bytes(path, mend)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} {not_utf8(content)}") from None


def read_jsonl(path: Path, mend: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every non-blank line of a JSONL file.

    Args:
        mend: what to do about a broken one, the end of the sentence.

    Raises:
        BadInput: as `reading`, or a line is not a JSON object in UTF-8.
    """
    then = mend and f"; {mend}"
    with reading(path, mend or "give the path of a JSONL file") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if problem := not_utf8(line):
                    raise BadInput(f"{path}, line {number}, {problem}") from None
                raise BadInput(f"{path}, line {number}: not valid JSON ({error}){then}.") from None
            if not isinstance(value, dict):
                raise BadInput(f"{path}, line {number}: expected a JSON object, e.g. {{...}}{then}.")
            yield number, value


def not_utf8(content: bytes) -> str:
    """Say which encoding some bytes are in if not UTF-8, with the mend, as the end of a sentence; else empty.

    Of the others only UTF-16 and UTF-32 are named: a wrong guess would be a mend that garbles the text.
    """
    try:
        content.decode()
        problem = ""
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = (
            f"is not UTF-8 text (byte 0x{content[error.start]:02X} in line {line}); convert it: "
            "iconv -f ITS-ENCODING -t UTF-8."
        )
    name = next((name for mark, name in _WIDE if content.startswith(mark)), None)
    name = name or _wide_without_mark(content, least_share=0.01 if problem else 0.2)
    return f"is {name} text, not UTF-8; convert it: iconv -f {name} -t UTF-8." if name else problem


def _wide_without_mark(content: bytes, least_share: float) -> str | None:
    """UTF-16 without its byte order mark: of line ends, spaces and Western letters one byte of the two is 0."""
    units = len(content) // 2
    for name, zeros, others in (("UTF-16LE", 1, 0), ("UTF-16BE", 0, 1)):
        if content[zeros::2].count(0) > max(1, least_share * units) and not content[others::2].count(0):
            with suppress(UnicodeDecodeError):
                content[: 2 * units].decode(name)
                return name
    return None


def read_rows(path: Path, kind: type[Row], mend: str = "") -> Iterator[tuple[Row, str]]:
    """Yield every object of a JSONL file as a `kind`, with the place (file and line) that errors about it name.

    Args:
        mend: what to do about a broken one, the end of the sentence.

    Raises:
        BadInput: as `read_jsonl` and `as_row`.
    """
    for number, value in read_jsonl(path, mend):
        where = f"{path}, line {number}"
        yield as_row(value, kind, where, mend), where


def as_row(value: Any, kind: type[Row], where: str, mend: str = "") -> Row:
    """Return a JSON value as a `kind`: a msgspec.Struct or any other type that msgspec converts to.

    Args:
        mend: what to do about a wrong one, the end of the sentence.

    Raises:
        BadInput: a field is missing or of another type; names `where`, the field and what was expected.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what = str(error)
        for pattern, said in _SAID.items():
            what = what.replace(f"matching regex {pattern!r}", said)
        raise BadInput(f"{where}: {what[0].lower()}{what[1:]}{mend and f'; {mend}'}.") from None


def read_json(path: Path, kind: type[Row], writer: str) -> Row:
    """Read a JSON file that the command `writer` wrote as a `kind`: a TypedDict, msgspec.Struct or the like.

    Raises:
        BadInput: it cannot be read, is no JSON, or lacks what `writer` writes; names the file, and the field.
    """
    mend = f"remove it and run `{writer}` again"
    content = read_bytes(path, mend)
    try:
        value = orjson.loads(content.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); {mend}.") from None
    return as_row(value, kind, str(path), mend)


def read_json_if_there(path: Path, kind: type[Row], writer: str) -> Row | None:
    """Return what `read_json` does; None where there is nothing at the path."""
    return read_json(path, kind, writer) if os.path.lexists(path) else None


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a text, or the pieces of one, to `path`; the file appears whole or not at all."""
    with whole(path) as file:
        file.writelines(piece.encode() for piece in ([text] if isinstance(text, str) else text))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to `path` and return how many; the file appears whole or not at all."""
    make_folder(path.parent)
    count = 0
    with whole(path) as file:
        for row in rows:
            file.write(orjson.dumps(row) + b"\n")
            count += 1
    return count


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV to `path`; the file appears whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write a value to `path`, indented; the file appears whole or not at all."""
    with whole(path) as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def private(path: str, flags: int) -> int:
    """Open a file, as an `opener` of `open`; one that is made so can be read by this user alone.

    What we make was paid for, or is made of documents that not everybody may read.
    """
    return os.open(path, flags, 0o600)


def make_file(path: Path) -> None:
    """Make an empty file that can be read by this user alone, with its folders, unless it is there.

    Raises:
        BadInput: as `check_place` and `make_folder`.
    """
    make_folder(path.parent)
    check_place(path)
    os.close(private(str(path), os.O_CREAT))


def make_folder(path: Path) -> None:
    """Make a folder that only this user may look into, and those above it that are missing, unless it is there.

    Raises:
        BadInput: it cannot be made.
    """
    try:
        with suppress(FileNotFoundError):  # a path that cannot be is seen before its begin is made
            path.stat()
        for folder in [*reversed(path.parents), path]:
            if not folder.is_dir():
                folder.mkdir(0o700, exist_ok=True)
    except OSError as error:
        why = "something else has its name" if isinstance(error, FileExistsError) else error.strerror
        raise BadInput(f"the folder {path} cannot be made ({why}); mend that, or give another place.") from None


def check_place(path: Path) -> None:
    """Refuse to write where something else than a file is: a pipe would be waited for, a device would be gone.

    Raises:
        BadInput: there is a folder, a pipe, a device or a link to nothing.
    """
    if os.path.lexists(path) and not path.is_file():
        raise BadInput(f"{path} {why_no_file(path)}, and cannot be written; give another path, or move it away.")


def check_target(path: Path, with_folder: bool = False) -> None:
    """See that a file can be written, before the work that it is to hold is done.

    Args:
        with_folder: whether its folder may be missing yet.

    Raises:
        BadInput: it cannot be.
    """
    missing = [folder for folder in path.parents if with_folder and not os.path.lexists(folder)]
    try:
        if missing:
            make_folder(path.parent)
        with whole(path):
            raise _OnlyTried
    except _OnlyTried:
        pass
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror}); give another place.") from None
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


class _OnlyTried(Exception):
    """Keeps what was only tried from being written."""


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` at the end; each writer has its own, since several may write one path.

    The writer holds a lock on it, which the kernel frees however it ends: so the next one of this path knows, and
    removes, what a killed one left.

    Raises:
        BadInput: as `check_place`.
    """
    check_place(path)
    sweep(path)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with naming(path), _locked_partial(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _locked_partial(partial: Path) -> IO[bytes]:
    while True:
        file = open(partial, "xb", opener=private)  # noqa: SIM115
        with suppress(OSError):  # without locks nothing is ever taken for left behind
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # swept away before it was locked


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` at the end, unless another process was first."""
    sweep(path)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    make_folder(partial)
    held = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield partial
        with suppress(OSError):
            partial.rename(path)
    finally:
        os.close(held)
        shutil.rmtree(partial, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what killed writers of `path` left; called where it is written, or not written any more."""
    for left in path.parent.glob(f"*{_PARTIAL}"):
        if left.name.startswith(f"{path.name}."):
            with suppress(OSError):
                held = os.open(left, os.O_RDONLY if left.is_dir() else os.O_RDWR)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                finally:
                    os.close(held)


def file_hash(path: Path) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of a file's content.

    That of a large file is kept in the cache folder under its place, size and times. Among these is the time of its
    last change, which any writing sets and no program can set back, as a copy or `touch` does with the date.

    Raises:
        BadInput: as `reading`.
    """
    with reading(path) as file:
        state = os.fstat(file.fileno())
        times = state.st_mtime_ns, state.st_ctime_ns
        key = content_hash([[str(path.resolve()), state.st_dev, state.st_ino, state.st_size, *times]])
        kept = cache_dir() / "hashes" / key
        is_large = state.st_size >= _LARGE
        if is_large and kept.is_file():
            return kept.read_text()
        found = hashlib.file_digest(file, "sha256").hexdigest()
        # What was written only just now might be written to again within one tick of the file system's clock.
        if is_large and time.time_ns() - max(times) > _SETTLED and os.fstat(file.fileno()).st_ctime_ns == times[1]:
            with suppress(OSError):
                make_folder(kept.parent)
                write_text(kept, found)
    return found


def content_hash(parts: Iterable[Any]) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of values one after another as JSON with sorted keys."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(orjson.dumps(part, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


class Lost(OSError):
    """What a command writes into was taken away; the message names it."""


class Guard:
    """Tells whether files that are open are still at their paths, in folders that can be written.

    What is written to an open file after it was removed, or its folder, is lost without any error.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, os.stat_result]] = []

    def watch(self, path: Path) -> None:
        """Watch a file that was opened at `path`."""
        self._files.append((path, path.stat()))

    def check(self) -> None:
        """Raise Lost where a file is not there any more, or another one, or its folder cannot be written."""
        for path, opened in self._files:
            try:
                kept = os.path.samestat(path.stat(), opened) and os.access(path.parent, os.W_OK)
            except OSError:
                kept = False
            if not kept:
                raise Lost(f"{path} is gone or cannot be written any more; nothing more was asked for")


def lock_file(path: Path) -> IO[str]:
    """Hold an exclusive lock on a file that names its owner; the kernel frees it when the process ends.

    Where the file system has no locks, that is said on standard error, and nothing is held.

    Raises:
        BadInput: another process holds it, or something else has its name.
    """
    check_place(path)
    while True:
        with naming(path):
            file = open(path, "a+", opener=private)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise BadInput(f"{path.parent} is in use by {owner} ({path.name}); wait for it or stop it.") from None
        except OSError as error:
            print(
                f"smt: the file system of {path.parent} has no locks ({error.strerror}): let no two commands write "
                "into it at once",
                file=sys.stderr,
            )
            return file
        # Its owner may have removed it just before.
        if path.is_file() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()
    with naming(path):
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path` meanwhile, and remove it at the end; see `lock_file`."""
    file = lock_file(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def cache_dir() -> Path:
    """The folder for what can be made again: `$XDG_CACHE_HOME/smt-plugin`, else `~/.cache/smt-plugin`.

    Raises:
        BadInput: everybody may write into it, so that what it holds may be anybody's.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smt-plugin"
    if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:
        raise BadInput(f"everybody may write into the cache folder {folder}; look what is in it, then chmod o-w it.")
    return folder
