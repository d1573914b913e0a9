"""Render the Jinja prompts under `prompts/<method>/<step>.jinja`; needs nothing but jinja2.

Other projects may use it alone:

    from smt_plugin.prompts import Prompts
    messages = Prompts().messages("focal_rewrite/apply", identity=..., document=..., strategy=..., query=...)
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sized
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound, TemplateSyntaxError, UndefinedError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smt_plugin.assets import asset_dir
from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput, first_line, why_no_file

# The largest number in a prompt, and how far its loops may count; characters that may come of one, a document's among
# them. Our choices, far beyond any use.
_MOST, _MOST_CHARACTERS = 10**6, 2 * 10**8
# A document is asked about hundreds of times in a row, and is by far the longest thing in a prompt.
_defuse_document = lru_cache(maxsize=64)(defuse)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which loops end, and numbers and texts stay small; `left` is how far ranges may still count."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.left = _MOST
        self.globals["range"] = self._range

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self.left -= len(found) + 1
        if self.left < 0:
            raise OverflowError(f"Range too big: its ranges count to more than {_MOST:,} together")
        return found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        size = max(len(each) if isinstance(each, Sized) else 1 for each in (left, right))
        numbers = [abs(each) for each in (left, right) if isinstance(each, int | float)]
        if operator == "**" and min(numbers, default=0) > 1 and numbers[1] * math.log10(numbers[0]) > 15:
            raise OverflowError("a power is too high")
        if size * max(numbers, default=1) > _MOST and size > 1:
            raise OverflowError(f"a product is longer than {_MOST:,}")
        return super().call_binop(context, operator, left, right)


class Prompts:
    """The shipped prompts, or a user's own where `folder` holds a file of the same name.

    Args:
        folder: a folder laid out like `prompts/`, searched first.
        others: more such folders, searched last: what they hold never replaces a shipped prompt.
        language: the language of all replies, which the end of the system text then asks for (`language.jinja`).

    Raises:
        BadInput: a file of `folder` has an error, or names a variable that its namesake elsewhere does not.
    """

    def __init__(self, folder: Path | None = None, others: Iterable[Path] = (), language: str | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise BadInput(f"prompts folder {folder} does not exist; remove `prompts` to use the shipped ones.")
        own = [folder] if folder is not None else []
        self._given = [asset_dir("prompts"), *others]
        self._environment = _Environment(
            loader=FileSystemLoader([*own, *self._given]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._hashes: dict[str, str] = {}
        self._language = language
        self._system: str | None = None
        if folder is not None:
            for path in sorted(folder.rglob("*.jinja")):
                self._check(path, path.relative_to(folder).as_posix())

    def _check(self, path: Path, name: str) -> None:
        """Find the errors of a user's prompt before anything is asked for with others."""
        tree = self._parse(path)
        namesake = next((place / name for place in self._given if (place / name).is_file()), None)
        if namesake is None:
            return
        known = find_undeclared_variables(self._parse(namesake))
        known |= {"identity", "document"} if "/" in name else set()
        for unknown in sorted(find_undeclared_variables(tree) - known - set(self._environment.globals)):
            line = next(node.lineno for node in tree.find_all(nodes.Name) if node.name == unknown)
            has = ", ".join(sorted(known)) or "none"
            raise BadInput(f"prompt {path}, line {line}: there is no variable {unknown!r}, but {has}; fix it.")

    def _parse(self, path: Path) -> nodes.Template:
        try:
            if not path.is_file():
                raise BadInput(f"prompt {path} {why_no_file(path)}; fix or remove it.")
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, MemoryError) as error:
            raise BadInput(f"prompt {path} cannot be read ({first_line(error)}); fix or remove it.") from None
        if "\0" in source:
            raise BadInput(f"prompt {path} holds NUL characters, as damaged files do; write it anew.")
        try:
            tree = self._environment.parse(source)
            # Jinja itself looks for a name in a branch only when that is taken.
            for kind, known in ((nodes.Filter, self._environment.filters), (nodes.Test, self._environment.tests)):
                for node in tree.find_all(kind):
                    if node.name not in known:
                        word = kind.__name__.lower()
                        raise BadInput(f"prompt {path}, line {node.lineno}: there is no {word} {node.name!r}; fix it.")
            self._environment.compile(source)
        except TemplateSyntaxError as error:
            raise BadInput(
                f"prompt {path}, line {error.lineno}: {(error.message or '').rstrip('.')}; fix it."
            ) from None
        except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
            raise BadInput(f"prompt {path}: it cannot be compiled ({first_line(error)}); fix it.") from None
        large = (each for each in tree.find_all(nodes.Const) if isinstance(each.value, int) and abs(each.value) > _MOST)
        if number := next(large, None):
            raise BadInput(
                f"prompt {path}, line {number.lineno}: the number {number.value} is beyond {_MOST:,}, the most that a "
                "prompt may work with; fix it."
            )
        return tree

    def messages(self, name: str, **variables: object) -> list[dict[str, str]]:
        """Render `prompts/<name>.jinja` into chat messages: the constant system text, then the user's.

        The values are inserted once and never rendered again, so braces in a document stay as they are; chat-control
        tokens in them are broken up.

        Args:
            name: `<method>/<step>`, e.g. `focal_rewrite/apply`.
            variables: what the prompt names: `identity` and `document` always, then the step's own.

        Raises:
            BadInput: no such prompt, a variable that the prompt names is missing, or it cannot be rendered.
        """
        for key, value in variables.items():
            if isinstance(value, str):
                variables[key] = _defuse_document(value) if key == "document" else defuse(value)
            elif isinstance(value, list):
                variables[key] = [defuse(each) if isinstance(each, str) else each for each in value]
        if self._system is None:
            self._system = self._render("system", {})
            if self._language is not None:
                self._system += "\n\n" + self._render("language", {"language": defuse(self._language)})
        return [
            {"role": "system", "content": self._system},
            {"role": "user", "content": self._render(name, variables)},
        ]

    def hash(self, name: str) -> str:
        """Return 16 hexadecimal digits that change when the prompt's own text or the system text does."""
        if name not in self._hashes:
            source = self._source("system") + "\0" + self._source(name)
            # Without a language, hashes are as they were before there was the choice.
            if self._language is not None:
                source += "\0" + self._source("language") + "\0" + self._language
            self._hashes[name] = hashlib.sha256(source.encode()).hexdigest()[:16]
        return self._hashes[name]

    def _source(self, name: str) -> str:
        loader = self._environment.loader
        assert loader is not None
        try:
            return loader.get_source(self._environment, f"{name}.jinja")[0]
        except TemplateNotFound:
            raise BadInput(f"there is no prompt {name}.jinja under prompts/.") from None

    def _render(self, name: str, variables: dict[str, object]) -> str:
        try:
            self._environment.left = _MOST
            text = "".join(self._pieces(name, variables)).strip()
            text.encode()
        except TemplateNotFound as error:
            if error.name != f"{name}.jinja":
                raise BadInput(
                    f"prompt {name}.jinja: there is no prompt {error.name}, which it names; fix it."
                ) from None
            raise BadInput(f"there is no prompt {error.name} under prompts/.") from None
        except UndefinedError as error:
            raise BadInput(f"prompt {name}.jinja: {error.message}; pass that variable.") from None
        except Exception as error:
            # Whatever a user's prompt can do: divide by zero, count too far, reach for what the sandbox forbids.
            lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename.endswith(".jinja")]
            where = f", line {lines[-1]}" if lines else ""
            raise BadInput(f"prompt {name}.jinja{where}: {first_line(error).rstrip('.')}; fix it.") from None
        if not text:
            raise BadInput(f"prompt {name}.jinja: nothing comes of it; write what to ask.")
        return text

    def _pieces(self, name: str, variables: dict[str, object]) -> Iterator[str]:
        """The text of a prompt in pieces; raises OverflowError where it does not end within some hundred MB."""
        left = _MOST_CHARACTERS
        for piece in self._environment.get_template(f"{name}.jinja").generate(variables):
            left -= len(piece)
            if left < 0:
                raise OverflowError(f"it writes more than {_MOST_CHARACTERS:,} characters")
            yield piece
