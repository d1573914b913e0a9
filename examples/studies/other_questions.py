"""A method for a study: focal rewrites of a document by the questions about another one.

In a run file, with this folder in PYTHONPATH:

    methods:
      other_questions:OtherQuestions: {tokens: 400K, corpus: archive}
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from smt_plugin.corpus import Document, read_documents, split_document
from smt_plugin.methods.base import Ask
from smt_plugin.methods.focal_rewrite import FocalRewrite


@dataclass(frozen=True, kw_only=True)
class OtherQuestions(FocalRewrite):
    """As `focal_rewrite`, but focused on what was asked about the next document of the corpus, about the first for the
    last.
    """

    corpus: str = field(metadata={"help": "the run file's corpus, from the folder in which the command runs"})

    def questions_ask(self, document: Document, r: int) -> Ask:
        """The call for the questions about the other document, which `synthetic_qa` shares."""
        return self.synthetic_qa.ask(_others(self.corpus)[document.id], r)


@cache
def _others(corpus: str) -> dict[str, Document]:
    """Of each document the one after it; long ones by their first part."""
    documents = list(read_documents(Path(corpus)))
    return {
        document.id: split_document(other, 16_000)[0]
        for document, other in zip(documents, [*documents[1:], *documents[:1]], strict=True)
    }
