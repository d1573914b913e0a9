"""A run's trainings: their configs, their models, and whether these are there."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from smt_plugin.mixing.manifest import MANIFEST_FILE, budget_name, read_manifest
from smt_plugin.training.shipped import read_config


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
        weights, adapter = self._weights(), self._adapter()
        config = shlex.quote(str(self.config))
        if not weights and adapter:
            return f"the adapter in {self.output} is not merged yet; run: axolotl merge-lora {config}"
        if not weights:
            return f"there is no trained model in {self.output}; run: axolotl train {config}"
        if adapter and min(weights) < max(adapter):
            return f"{self.model} was merged before the adapter was last trained; run: axolotl merge-lora {config}"
        if self.is_stale():
            return f"the model in {self.output} was trained before the mix in {self.mix}; run: axolotl train {config}"
        return None

    def is_stale(self) -> bool:
        """Whether the model that is there was trained on another mix than the one that is there.

        It was not if it is younger than the mix, or if a card in its folder, axolotl's or `smt card`'s, names the mix's
        content.
        """
        manifest = self.mix / MANIFEST_FILE
        dates = self._adapter() or self._weights()
        if not manifest.is_file() or not dates or manifest.stat().st_mtime <= max(dates):
            return False
        content = read_manifest(manifest)["content_hash"][:16]
        cards = (folder / "README.md" for folder in {self.output, self.model})
        return not any(content.encode() in card.read_bytes() for card in cards if card.is_file())

    def made_at(self) -> float:
        """When the weights of the model that is there were written, in Unix seconds."""
        return max(self._weights())

    def trained_at(self) -> float:
        """When the model that is there was trained; it may have been merged later."""
        return max(self._adapter() or self._weights())

    def _weights(self) -> list[float]:
        files = self.model.glob("*.safetensors")
        return [file.stat().st_mtime for file in files if not file.name.startswith("adapter_model")]

    def _adapter(self) -> list[float]:
        if self.model == self.output:  # one that lies there is of an earlier training
            return []
        return [file.stat().st_mtime for file in self.output.glob("adapter_model.safetensors")]


def trainings_of(run_folder: Path, budgets: Iterable[int]) -> list[Training]:
    """Return a run's trainings, from the smallest of the run file's `mix.budgets` on; without any, the only one."""
    return [Training(run_folder, budget_name(tokens)) for tokens in sorted(set(budgets))] or [Training(run_folder)]
