"""The microworld's invented archive, which needs no files."""

from smt_plugin.benchmarks.official import Data
from smt_plugin.microworld import world
from smt_plugin.question import Question


def make() -> Data:
    """Return the documents and questions of the archive that comes from the default seed."""
    return world.documents(), [Question(**row) for row in world.questions()]
