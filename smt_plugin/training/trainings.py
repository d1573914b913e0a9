"""A run's trainings: their configs, their models, and whether these are there."""

import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from smt_plugin.config import parse_yaml
from smt_plugin.errors import naming
from smt_plugin.mixing.manifest import MANIFEST_FILE, budget_name, read_manifest
from smt_plugin.training.merged import ADAPTER_FILE, may_hold
from smt_plugin.training.shipped import read_config

_CONFIG = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HASH = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a run: its only one, or that of one of several nested mixes.

    Attributes:
        run: the run folder.
        budget: the mix's, such as `10M`; empty where the run has only one.
    """

    run: Path
    budget: str = ""

    @property
    def mix(self) -> Path:
        """The folder of what is trained on."""
        return self.run / "mix" / self.budget

    @property
    def config(self) -> Path:
        """The axolotl config that `smt mix` writes."""
        return (self.mix if self.budget else self.run) / "axolotl.yaml"

    @property
    def output(self) -> Path:
        """Where axolotl writes the model."""
        return self.run / (f"model-{self.budget}" if self.budget else "model")

    @property
    def model(self) -> Path:
        """The trained model: the output, or `merged` in it where the config trains an adapter."""
        has_adapter = self.config.is_file() and read_config(self.config).get("adapter")
        return self.output / "merged" if has_adapter else self.output

    def unready(self) -> str | None:
        """What is to be done before the trained model can be used, as a sentence; None if it is there."""
        # axolotl writes config.json before it trains, and the weights after it.
        config = shlex.quote(str(self.config))
        if not self._has_weights() and self._has_adapter():
            return f"the adapter in {self.output} is not merged yet; run: axolotl merge-lora {config}"
        if not self._has_weights():
            return f"there is no trained model in {self.output}; run: axolotl train {config}"
        if self._has_adapter() and not self._is_merge():
            return (
                f"{self.model} was merged from another adapter than the one in {self.output}; run: "
                f"axolotl merge-lora {config}"
            )
        if self.is_stale():
            return (
                f"the model in {self.output} was trained on another mix than the one in {self.mix}; run: "
                f"axolotl train {config}"
            )
        return None

    def is_stale(self) -> bool:
        """Whether the model that is there was trained on another mix than the one that is there.

        The folder of prepared data tells, since it is named by the mix's content (axolotl_config.py), and the config
        that names it stands in the model's card. Without a card the model is taken for one of this mix.
        """
        manifest = self.mix / MANIFEST_FILE
        trained_on = mix_of(self.trained_by())
        if trained_on is None or not manifest.is_file() or not (self._has_weights() or self._has_adapter()):
            return False
        return not read_manifest(manifest)["content_hash"].startswith(trained_on)

    def trained_by(self) -> dict[str, Any]:
        """The config that the model was trained by, as axolotl's card or that of `smt card` has it; empty without."""
        card = self.output / "README.md"
        text = ""
        if card.is_file():
            with naming(card):
                text = card.read_text(encoding="utf-8", errors="replace")
        with suppress(ValueError):
            if (found := _CONFIG.search(text)) and isinstance(config := parse_yaml(found[1]), dict):
                return config
        return {}

    def _has_weights(self) -> bool:
        files = self.model.glob("*.safetensors")
        return any(not file.name.startswith("adapter_model") for file in files)

    def _has_adapter(self) -> bool:
        # One that lies in the model's own folder is of an earlier training.
        return self.model != self.output and (self.output / ADAPTER_FILE).is_file()

    def _is_merge(self) -> bool:
        """Whether the merged model is one of the adapter beside it, as far as can be told."""
        return read_config(self.config).get("adapter") == "qlora" or may_hold(self.model, self.output)


def mix_of(config: dict[str, Any]) -> str | None:
    """The beginning of the content hash of the mix that a config of ours trains on; None where it names none."""
    name = PurePath(str(config.get("dataset_prepared_path"))).name
    return name if _HASH.fullmatch(name) else None


def trainings_of(run_folder: Path, budgets: Iterable[int]) -> list[Training]:
    """Return a run's trainings, from the smallest of the run file's `mix.budgets` on; without any, the only one."""
    return [Training(run_folder, budget_name(tokens)) for tokens in sorted(set(budgets))] or [Training(run_folder)]
