"""Compare the cosines of `smt gradients` with those of bergson, another program that computes gradients of texts.

    python benchmarks/gradients_bergson.py RUN.YAML [--documents 8] [--records 2] [--model FOLDER]

after `smt generate RUN.YAML`; docs/gradients.md says how bergson was installed. Both get the same records of two
methods, in both forms, and the same labels. bergson computes the whole gradient of each text, without a projection, for
the weights of the linear layers below the head. In the second column ours is frozen everywhere else, and projects as
`smt gradients` does; the third is over all weights.
"""

import argparse
from collections.abc import Iterable
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector
from datasets import Dataset
from numpy.typing import NDArray

from smt_plugin.config import read_run_file
from smt_plugin.study.gradients import CHAT, TEXT, Projector, cosines, drawn_records, measure
from smt_plugin.training.shipped import base_model_of

SEED = 0
DIMENSIONS = 16384


class Theirs(Projector):
    """Reads texts as `Projector` does, and has bergson compute their gradients."""

    def gradient(self, texts: Iterable[str | list[dict[str, str]]]) -> NDArray[np.float32]:
        """The sum of the whole gradients of the texts' mean losses, over the linear layers below the head."""
        rows = []
        for text in texts:
            ids, first = self._tokens(text)
            ids = ids[: self._most_tokens]
            rows.append({"input_ids": ids, "labels": [-100] * first + ids[first:]})
        data = Dataset.from_list(rows)
        with TemporaryDirectory() as folder:
            config = IndexConfig(run_path=folder + "/run", loss_reduction="mean", projection_dim=0)
            config.partial_run_path.mkdir()
            collector = InMemoryCollector(
                model=self._model.base_model, cfg=config, processor=GradientProcessor(projection_dim=None), data=data
            )
            CollectorComputer(model=self._model, data=data, collector=collector, cfg=config).run_with_collector_hooks()
        found = torch.cat([collector.gradients[name].float().sum(0).flatten() for name in sorted(collector.gradients)])
        return found.numpy()


class Ours(Projector):
    """As `smt gradients`, with all weights frozen but those that bergson has gradients of."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._model.requires_grad_(False)
        for layer in self._model.base_model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.requires_grad_(True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the cosines of `smt gradients` with those of bergson.")
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--records", type=int, default=2)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    run_file = read_run_file(arguments.run_file)
    methods = list(run_file.methods)[:2]
    drawn = drawn_records(run_file.run, methods, arguments.documents, arguments.records, SEED)
    model = arguments.model or base_model_of(run_file.train.config, run_file.train.base_model)
    settings = (model, DIMENSIONS, run_file.mix.sequence_len, SEED)
    sides = [(method, form) for method in methods for form in (CHAT, TEXT)]
    theirs, ours, full = (measure(drawn, sides, kind(*settings).gradient) for kind in (Theirs, Ours, Projector))
    names = list(theirs)
    columns = [{(each.side, each.other): each.mean for each in cosines(found)} for found in (theirs, ours, full)]
    print("| records | beside | bergson | the same weights, projected | all weights, projected |")
    print("| --- | --- | --- | --- | --- |")
    off = []
    for pair in combinations_with_replacement(names, 2):
        values = [column[pair] for column in columns]
        off.append(abs(values[0] - values[1]))
        beside = "itself, half against half" if pair[0] == pair[1] else pair[1]
        print(f"| {pair[0]} | {beside} | {' | '.join(f'{value:.3f}' for value in values)} |")
    sizes = [next(iter(found.values())).shape[1] for found in (theirs, ours)]
    print(f"largest difference of the first two: {max(off):.4f}; {sizes[0]:,} weights, {sizes[1]:,} dimensions")


if __name__ == "__main__":
    main()
