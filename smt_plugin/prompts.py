"""Render the Jinja prompts under `prompts/<method>/<step>.jinja`; needs nothing but jinja2.

Other projects may use it alone:

    from smt_plugin.prompts import Prompts
    messages = Prompts().messages("focal_rewrite/apply", identity=..., document=..., strategy=..., query=...)
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smt_plugin.assets import asset_dir
from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput

# A document is asked about hundreds of times in a row, and is by far the longest thing in a prompt.
_defuse_document = lru_cache(maxsize=64)(defuse)


class Prompts:
    """The shipped prompts, or a user's own where `folder` holds a file of the same name.

    Args:
        folder: a folder laid out like `prompts/`, searched first.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise BadInput(f"prompts folder {folder} does not exist; remove `prompts` to use the shipped ones.")
        folders = [folder] if folder is not None else []
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader([*folders, asset_dir("prompts")]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._hashes: dict[str, str] = {}
        self._system: str | None = None

    def messages(self, name: str, **variables: object) -> list[dict[str, str]]:
        """Render `prompts/<name>.jinja` into chat messages: the constant system text, then the user's.

        The values are inserted once and never rendered again, so braces in a document stay as they are; chat-control
        tokens in them are broken up.

        Args:
            name: `<method>/<step>`, e.g. `focal_rewrite/apply`.
            variables: what the prompt names: `identity` and `document` always, then the step's own.

        Raises:
            BadInput: no such prompt, or a variable that the prompt names is missing.
        """
        for key, value in variables.items():
            if isinstance(value, str):
                variables[key] = _defuse_document(value) if key == "document" else defuse(value)
        if self._system is None:
            self._system = self._render("system", {})
        return [
            {"role": "system", "content": self._system},
            {"role": "user", "content": self._render(name, variables)},
        ]

    def hash(self, name: str) -> str:
        """Return 16 hexadecimal digits that change when the prompt's own text or the system text does."""
        if name not in self._hashes:
            source = self._source("system") + "\0" + self._source(name)
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
            return self._environment.get_template(f"{name}.jinja").render(variables).strip()
        except TemplateNotFound:
            raise BadInput(f"there is no prompt {name}.jinja under prompts/.") from None
        except UndefinedError as error:
            raise BadInput(f"prompt {name}.jinja: {error.message}; pass that variable.") from None
