"""What is known of a benchmark's official files."""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path

from smt_plugin.corpus import Document
from smt_plugin.question import Question

Data = tuple[list[Document], list[Question]]


@dataclass(frozen=True, slots=True)
class Official:
    """What is known of a benchmark's official files.

    Attributes:
        files: name -> the git blob id that the file has in its repository, None where we do not know it.
        documents, questions: how many the whole benchmark has.
        source: where the files come from.
        address: URL that the paths of `downloads` are below; of one commit, where we know which.
        downloads: path -> git blob id, or None where we do not know it, of all that a download fetches.
        remark: what a reader of these documents should know, a sentence without its full stop; None for nothing.
    """

    files: dict[str, str | None]
    documents: int
    questions: int
    source: str
    licence: str
    address: str
    downloads: dict[str, str | None]
    remark: Callable[[list[Document]], str | None] = lambda documents: None

    def folder_in(self, folder: Path) -> Path | None:
        """`folder`, or its `data` (as in a clone of the repository), whichever holds all the files; else None."""
        for place in (folder, folder / "data"):
            if all((place / name).is_file() for name in self.files):
                return place
        return None

    def count_problem(self, documents: Sized, questions: Sized) -> str | None:
        """What to say of documents or questions that are missing or too many; None where the numbers are right."""
        if (len(documents), len(questions)) == (self.documents, self.questions):
            return None
        return (
            f"there should be {self.questions:,} questions about {self.documents:,} documents, but there are "
            f"{len(questions):,} about {len(documents):,}"
        )

    def is_whole_in(self, folder: Path) -> bool:
        """Whether a download has nothing left to fetch into a folder, or somebody put the files there."""
        place = self.folder_in(folder)
        # FinanceBench's filings lie beside or below the folder of its two files.
        roots = () if place is None else (place, place.parent)
        rest = [path for path in self.downloads if Path(path).name not in self.files]
        return bool(roots) and all(any((root / path).is_file() for root in roots) for path in rest)
