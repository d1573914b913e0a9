"""The chronicle, invented people and towns in plain prose, which needs no files."""

from smt_plugin.benchmarks.official import Data
from smt_plugin.microworld import chronicle
from smt_plugin.question import Question


def make() -> Data:
    """Return the documents and questions of the chronicle that comes from the default seed."""
    return chronicle.documents(), [Question(**row) for row in chronicle.questions()]
