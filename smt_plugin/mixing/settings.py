"""What goes into a mix."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smt_plugin.errors import BadInput

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class MixSettings:
    """What goes into a mix.

    Attributes:
        tokenizer: folder or hub name of the target model's tokenizer.
        tokens: budget of the records (without replay) in tokens of that tokenizer; None takes as
            much as the scarcest source allows at exactly these shares.
        budgets: several such budgets in place of `tokens`, for nested mixes in `<run>/mix/10M/` and so on.
        shares: method, or name in `sources`, -> weight by tokens; the default is questions : documents = 1 : 1.
        sources: name -> JSONL file or folder of them from elsewhere, such as another run's
            `records/synthetic_qa.jsonl`: lines with `text` or `messages`.
        replay: general text (`{"text"}` or `{"messages"}` lines): a JSONL file, a data set's folder or its name on the
            hub, which is streamed; None for no replay.
        replay_config, replay_split: of a data set; FineWeb's default is `sample-10BT`.
        replay_share: the replay's part of all tokens, 0 to below 1.
        qa_form: `chat` trains the answers in the chat template, `text` trains questions and answers as plain text.
        near_duplicates: records that share this part of their shingles (see duplicates.py), and all numbers, with an
            earlier one are dropped, 0.5 to 1; 1 drops exact duplicates alone. 0.8 is what SlimPajama took.
        validation_rounds: so many of the last rounds of each document are held out for validation, where
            there are more; no document is left out of training.
        sequence_len: longest text in tokens; longer documents are cut, longer dialogues dropped.
        seed: another seed selects and orders otherwise.
    """

    tokenizer: str
    tokens: int | None = None
    budgets: tuple[int, ...] = ()
    shares: dict[str, float] = field(default_factory=lambda: {"synthetic_qa": 1.0, "focal_rewrite": 1.0})
    sources: dict[str, Path] = field(default_factory=dict)
    replay: Path | str | None = None
    replay_config: str | None = None
    replay_split: str = "train"
    replay_share: float = 0.1
    qa_form: Literal["chat", "text"] = "chat"
    near_duplicates: float = 0.8
    validation_rounds: int = 0
    sequence_len: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        # What is no number is not above 0 either; sums and quotients of such as these stay finite.
        if not self.shares or not all(1e-9 <= weight <= 1e9 for weight in self.shares.values()):
            raise BadInput(f"mix.shares {self.shares}: name at least one method, each with a weight of 1e-9 to 1e9.")
        if "replay" in self.shares:
            raise BadInput("mix.shares: `replay` has a key of its own, mix.replay_share; take it out here.")
        if self.tokens is not None and self.budgets:
            raise BadInput("mix.tokens and mix.budgets are both given; take one of them out.")
        if any(tokens < 1 for tokens in (self.tokens, *self.budgets) if tokens is not None):
            raise BadInput(f"{self.budget_key}: give a number of tokens above 0, or leave it out.")
        for name in self.sources:
            if name not in self.shares:
                raise BadInput(f"mix.sources.{name}: it has no share; add it to mix.shares with a weight.")
        if not 0 <= self.replay_share < 1:
            raise BadInput(f"mix.replay_share {self.replay_share}: give a part of all tokens, 0 to below 1.")
        if not 0.5 <= self.near_duplicates <= 1:
            raise BadInput(f"mix.near_duplicates {self.near_duplicates}: give a shared part, 0.5 to 1.")
        if self.sequence_len < 16:
            raise BadInput(f"mix.sequence_len {self.sequence_len}: give at least 16 tokens.")

    @property
    def budget_key(self) -> str:
        """The key of the run file that sets the budget."""
        return "mix.budgets" if self.budgets else "mix.tokens"
