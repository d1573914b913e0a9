"""Fetch files over HTTP: resumed where they broke off, checked, and in their place only when whole."""

import fcntl
import hashlib
import os
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.filesize import decimal

from smt_plugin.errors import BadInput
from smt_plugin.progress import Progress

ATTEMPTS = 5
_PAUSE_SECONDS = 1.0  # before the second attempt; twice as long before each further one
_BLOCK = 1 << 16  # what is lost, at most, where a transfer breaks off
_SILENCE_SECONDS = 60.0
_LARGEST = 2**30  # bytes of a file; FinanceBench's largest filing has 20 million


class _Redirects(HTTPRedirectHandler):
    """Follows to other hosts, as those that keep files have them, but to nothing that is not encrypted.

    No key goes with a download, and what comes is checked.
    """

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme not in {"https", req.type}:
            raise HTTPError(req.full_url, code, f"it redirects to {newurl}, which is not encrypted", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_open = build_opener(_Redirects).open


def download(address: str, files: Mapping[str, str | None], folder: Path) -> None:
    """Fetch `address` + path into `folder` / path for each path of `files` that is not there yet.

    What was fetched before a break is kept as `<path>.partial`, and the next call goes on from there. Two processes
    may want the same folder: the second waits for the first.

    Args:
        files: path below `address` -> the git blob id of its content; None where that is not known, and such a
            file is fetched from its beginning each time, since nothing would tell a mixture of two versions.

    Raises:
        BadInput: downloads are switched off, the address cannot be reached or refuses, or a checksum is wrong; the
            message has no advice on where else to put the files, which the caller knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = {path: blob for path, blob in files.items() if not (folder / path).is_file()}
        if not missing:
            return
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise BadInput(f"{address} was not asked for {len(missing)} files, since HF_HUB_OFFLINE is set")
        with Progress("files", say=lambda size: decimal(round(size))) as progress:
            for number, (path, blob) in enumerate(missing.items(), start=1):
                progress.begin(f"of {path} ({number} of {len(missing)} files)")
                _fetch(address + path, folder / path, blob, progress)


def _fetch(url: str, path: Path, blob: str | None, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if blob is None:
        partial.unlink(missing_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _go_on(url, partial, progress)
            break
        except (URLError, HTTPException, ConnectionError, SSLError, TimeoutError) as error:
            # A refusal will not change; a name that is not found or a port that is closed is tried again, too,
            # since connections come and go.
            status = error.code if isinstance(error, HTTPError) else None
            if attempt + 1 == ATTEMPTS or (status is not None and status < 500 and status != 429):
                raise BadInput(f"{url} cannot be fetched ({str(error) or type(error).__name__})") from None
            if blob is None:
                partial.unlink(missing_ok=True)
            time.sleep(_PAUSE_SECONDS * 2**attempt)
    if blob is not None and (found := blob_id(partial)) != blob:
        partial.unlink()
        raise BadInput(f"{url} has the wrong checksum (git blob id {found}, not {blob}) and was thrown away")
    partial.replace(path)


def _go_on(url: str, partial: Path, progress: Progress) -> None:
    """Fetch what `partial` still lacks; all of it if the server knows no ranges."""
    have = partial.stat().st_size if partial.is_file() else 0
    try:
        response = _open(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=_SILENCE_SECONDS)
    except HTTPError as error:
        if error.code == 416:  # nothing is left to fetch, or another file is there now: the checksum tells
            return
        raise
    with response:
        if response.status != 206:
            have = 0
        total = None if response.length is None else have + response.length
        with partial.open("ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                have += file.write(block)
                if have > _LARGEST:
                    partial.unlink()
                    raise BadInput(f"{url} gives more than {decimal(_LARGEST)}")
                progress.at(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def blob_id(path: Path) -> str:
    """The id that git gives to a file's content, 40 hexadecimal digits."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()
