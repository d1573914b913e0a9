import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from smt_plugin.microworld import archive
from smt_plugin.microworld.tokenizer import CHAT_TEMPLATE
from smt_plugin.mixing.lines import ReplayLine, Turn
from smt_plugin.study.gradients import Projector, cosines, drawn_records, turns_as

MODEL = str(Path(archive.__file__).parent / "base_model")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the microworld with the records of three methods."""
    folder = tmp_path_factory.mktemp("gradients")
    archive.write(folder / "archive")
    path = folder / "smt.yaml"
    path.write_text(
        "run: run\ncorpus: archive\nbackend: {kind: microworld}\nmix: {sequence_len: 512}\n"
        "train: {config: microworld/full}\n"
        "methods: {synthetic_qa: {tokens: 30K}, active_reading: {tokens: 30K}, focal_rewrite: {tokens: 30K}}\n"
    )
    done = CliRunner().invoke(cli, ["generate", str(path)])
    assert done.exit_code == 0, done.output
    return path


def test_the_command_says_whether_form_or_content_keeps_methods_apart(run_file: Path) -> None:
    result = CliRunner().invoke(cli, ["gradients", str(run_file), "--documents", "12", "--records", "3"])
    assert result.exit_code == 0, result.output
    written = json.loads((run_file.parent / "run" / "gradients.json").read_text())
    found = {(each["side"], each["other"]): each for each in written["cosines"]}
    assert len(found) == 7 + 21  # pairs also as prose
    assert all(-1 <= each["low"] <= each["mean"] <= each["high"] <= 1 for each in found.values())
    # Two methods in one form pull more alike than one method in two forms.
    methods = found["active_reading as chat", "focal_rewrite as chat"]
    assert methods["low"] > found["active_reading as chat", "active_reading as text"]["high"]
    assert "12 documents" in result.output


def test_a_projection_keeps_the_cosines_of_whole_gradients() -> None:
    texts = ["the water of holm comes from the river dunne .", "mara birch plays the harp .", "the answer is harp ."]
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def whole(text: str) -> np.ndarray:
        model.zero_grad()
        ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id]])
        model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([each.grad.reshape(-1) for each in model.parameters() if each.grad is not None]).numpy()

    def matrix(rows: list[np.ndarray]) -> np.ndarray:
        units = np.stack(rows) / np.linalg.norm(rows, axis=1)[:, None]
        return units @ units.T

    projector = Projector(MODEL, 16384, 512, seed=3)
    projected = matrix([projector.gradient([text]) for text in texts])
    assert np.abs(projected - matrix([whole(text) for text in texts])).max() < 4 / 16384**0.5


def test_of_a_chat_only_the_answer_is_trained() -> None:
    projector = Projector(MODEL, 1024, 512, seed=0)
    chat = [{"role": "user", "content": "Who plays the harp?"}, {"role": "assistant", "content": "Mara Birch."}]
    ids, first = projector._tokens(chat)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert tokenizer.decode(ids[first:]).replace(" ", "").startswith("marabirch.<|end|>")
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_each_record_can_be_taken_as_a_chat_and_as_a_text_and_pairs_as_prose() -> None:
    pair = ReplayLine("1", "d", messages=[Turn("user", "Who?"), Turn("assistant", "Nobody.")])
    assert turns_as(pair, "text") == "Question: Who?\nAnswer: Nobody."
    assert turns_as(pair, "chat")[1] == {"role": "assistant", "content": "Nobody."}
    assert turns_as(pair, "prose") == "Nobody."
    document = ReplayLine("2", "d", text="It rained.")
    assert turns_as(document, "text") == "It rained."
    assert turns_as(document, "chat")[-1] == {"role": "assistant", "content": "It rained."}


def test_intervals_hold_a_known_cosine_and_noise_is_taken_off() -> None:
    random = np.random.default_rng(0)
    truth, tries, held, corrected = 0.5, 200, 0, []
    shared, first, second = np.eye(3, 64)
    a, b = shared * truth**0.5 + first * (1 - truth) ** 0.5, shared * truth**0.5 + second * (1 - truth) ** 0.5
    for _ in range(tries):
        noisy = {
            name: (side + random.normal(0, 0.5, (40, 64))).astype(np.float32) for name, side in (("a", a), ("b", b))
        }
        found = {(each.side, each.other): each for each in cosines(noisy)}["a", "b"]
        # What is estimated is the cosine with the noise that so many documents leave.
        expected = truth / (1 + 64 * 0.25 / 40)
        held += found.low <= expected <= found.high
        assert found.corrected is not None
        corrected.append(found.corrected)
    assert 0.91 <= held / tries <= 0.99
    assert np.mean(corrected) == pytest.approx(truth, abs=0.03)


def test_what_cannot_be_compared_is_a_sentence(run_file: Path) -> None:
    run = run_file.parent / "run"
    with pytest.raises(
        BadInput, match=r"entigraph\.jsonl does not exist; run `smt generate RUN.YAML --method entigraph`"
    ):
        drawn_records(run, ["entigraph"], 10, 1, 0)
    unknown = CliRunner().invoke(cli, ["gradients", str(run_file), "--method", "spa"])
    assert isinstance(unknown.exception, BadInput)
    assert "it is not in the run file; it has synthetic_qa, active_reading, focal_rewrite" in str(unknown.exception)
    nowhere = CliRunner().invoke(cli, ["gradients", str(run_file), "--model", str(run)])
    assert isinstance(nowhere.exception, BadInput)
    assert "cannot be loaded" in str(nowhere.exception)
    with pytest.raises(BadInput, match="0 documents have records of each of"):
        drawn_records(run, ["focal_rewrite"], 0, 1, 0)


def test_the_draw_depends_on_seed_and_ids_alone(run_file: Path) -> None:
    run = run_file.parent / "run"
    first, again, other = (drawn_records(run, ["focal_rewrite", "synthetic_qa"], 8, 2, seed) for seed in (0, 0, 1))
    assert first == again
    assert set(first) != set(other)
    assert all(len(lines) == 2 for each in first.values() for lines in each.values())
