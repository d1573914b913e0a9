"""Where in its document a record's source passage is, for the file beside the training rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from smt_plugin.mixing.lines import Line
from smt_plugin.source_passages import KeptDocuments

FOLDER = "provenance"


class Provenance:
    """Looks for the passages of documents that records share most with.

    Args:
        part_tokens: folder of `records/` -> above how many tokens its documents were split.
    """

    def __init__(self, documents: KeptDocuments, part_tokens: Callable[[Path], int]) -> None:
        self._documents, self._part_tokens = documents, part_tokens

    def of_file(self, file: Path) -> Callable[[Line, str], dict[str, Any]]:
        """Return what gives, for a record of this file and all that it says, `doc_id`, `start` and `end`.

        These are characters of the document's text as the corpus gives it, from 0, the end not among them; null where
        the corpus lacks the document or nothing is shared.
        """
        folder = file.absolute().parent
        tokens = self._part_tokens(folder.parent)

        def of(row: Line, said: str) -> dict[str, Any]:
            doc_id = None if row.doc_id in (None, "") else str(row.doc_id)
            part = self._documents.part(doc_id, row.part or 0, tokens) if doc_id is not None else None
            start, end = (part.passage(said) if part else None) or (None, None)
            return {"doc_id": doc_id, "start": start, "end": end}

        return of
