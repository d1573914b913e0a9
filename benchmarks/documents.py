"""How much of a document's words survive its conversion, in which order, and what a page costs.

    python benchmarks/documents.py FOLDER [--markitdown] [--files]

FOLDER is `tests/data` of a checkout of docling (github.com/docling-project/docling, MIT): its test files, each with
docling's own Markdown beside it, `<kind>/sources/<name>` and `<kind>/groundtruth/<name>.md`. So the reference has
docling's taste; words and their order are the fair columns.

- *found*: the share of the reference's words that the text has (each as often as it has it, at most).
- *order*: the share of the reference's words that lie in runs which both texts have in the same order.

Each is the mean over the files. A file that is refused, or has no text, counts as 0 in `found`. `--markitdown` has
markitdown, where it is installed with its extras pdf, docx and pptx, read the same files.
"""

import argparse
import difflib
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from smt_plugin import converters
from smt_plugin.words import words_of

LARGEST = 4 * 2**20


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Files that can be converted, with their references."""
    found = []
    for source in sorted(folder.glob("*/sources/*")):
        if source.suffix in converters.CONVERTERS and source.stat().st_size < LARGEST:
            folder = source.parents[1] / "groundtruth"
            names = (folder / f"{source.name}.md", folder / f"{source.stem}.md")
            found += [(source, reference) for reference in names if reference.is_file()][:1]
    return found


def ours(path: Path) -> tuple[str, int]:
    found = converters.convert(path)
    return found.text, max(found.pages, 1)


def markitdown() -> Callable[[Path], tuple[str, int]]:
    from markitdown import MarkItDown  # type: ignore[import-not-found]

    reader = MarkItDown()
    return lambda path: (reader.convert(path).text_content, 1)


_ADDRESS = re.compile(r"(!?)\[([^\]]*)\]\([^)\n]*\)|<!--.*?-->", re.DOTALL)


def shares(text: str, reference: str) -> tuple[float, float]:
    # Addresses and remarks are no words of a document.
    wanted, given = (words_of(_ADDRESS.sub(lambda match: match[2] or "", each)) for each in (reference, text))
    if not wanted:
        return 1.0, 1.0
    found = sum((Counter(wanted) & Counter(given)).values())
    blocks = difflib.SequenceMatcher(None, wanted, given, autojunk=False).get_matching_blocks()
    return found / len(wanted), sum(block.size for block in blocks) / len(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markitdown", action="store_true", help="read the same files with markitdown")
    parser.add_argument("--files", action="store_true", help="print each file")
    arguments = parser.parse_args()
    read = markitdown() if arguments.markitdown else ours
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    refused: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as cache:
        converters.cache_dir = lambda: Path(cache)  # nothing is kept from an earlier run
        for source, reference in pairs(arguments.folder):
            started = time.perf_counter()
            try:
                text, count = read(source)
            except Exception as error:  # whatever a converter raises
                text, count = "", 0
                refused[source.suffix] += 1
                if arguments.files:
                    print(f"refused: {source.name}: {error}")
            seconds[source.suffix] += time.perf_counter() - started
            pages[source.suffix] += count
            found = shares(text, reference.read_text(encoding="utf-8"))
            kinds[source.suffix].append(found)
            if arguments.files:
                print(f"{source.name:50} {found[0]:.3f} {found[1]:.3f}")
    print("| format | files | refused | words found | in order | ms a page or file |")
    print("| --- | --- | --- | --- | --- | --- |")
    for suffix, values in kinds.items():
        mean = [sum(value[place] for value in values) / len(values) for place in (0, 1)]
        cost = 1000 * seconds[suffix] / max(pages[suffix], 1)
        print(f"| {suffix} | {len(values)} | {refused[suffix]} | {mean[0]:.3f} | {mean[1]:.3f} | {cost:.0f} |")


if __name__ == "__main__":
    main()
