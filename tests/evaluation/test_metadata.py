"""What lm_eval's command line says to our tasks, and what is refused in it."""

import json
from pathlib import Path

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.lm_eval_link import dataset
from smt_plugin.evaluation.metadata import check_keys, command_line
from tests.official_data import write_longhealth
from tests.quality_data import write_official, write_own

KEYS = ["data", "retrieval", "judge", "split", "cut_documents", "read_by_judge"]
LM_EVAL = ["/somewhere/lm_eval/__main__.py", "run", "--model", "hf", "--tasks", "quality_smt"]


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, object]:
    monkeypatch.setattr("sys.argv", [*LM_EVAL, *arguments])
    return command_line()


def test_data_may_be_a_path_for_each_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"quality": str(write_own(tmp_path / "q")), "longhealth": str(write_longhealth(tmp_path / "l"))}
    assert "50001" in dataset("quality", "none", data=places)["test"]["doc_id"][:]
    assert "patient_01" in dataset("longhealth", "none", data=places)["test"]["doc_id"][:]
    # What the mapping leaves out is where it is without one.
    monkeypatch.setenv("SMT_QUALITY_DIR", places["quality"])
    assert len(dataset("quality", "none", data={"longhealth": places["longhealth"]})["test"]) == 8
    with pytest.raises(BadInput, match="data: unknown benchmark 'qualty'; choose one of: chronicle, corpus"):
        dataset("quality", "none", data={"qualty": "x"})
    with pytest.raises(BadInput, match=r"data is \['x'\], but must be a path, or one for each benchmark"):
        dataset("quality", "none", data=["x"])  # type: ignore[arg-type]


def test_one_folder_is_not_read_as_two_benchmarks(tmp_path: Path) -> None:
    data = str(write_own(tmp_path / "q"))
    for _ in range(2):
        dataset("quality", "none", data=data)
    with pytest.raises(BadInput, match=r"was read as quality's, and longhealth's .* SMT_QUALITY_DIR and SMT_LONGH"):
        dataset("longhealth", "none", data=f"{data}/")
    # Who says it in so many words gets it.
    assert len(dataset("corpus", "none", data={"corpus": data})["test"]) == 8
    official = str(write_official(tmp_path / "official"))
    with pytest.raises(BadInput, match=r"official holds quality's files, not longhealth's; put benchmark_v5\.json"):
        dataset("longhealth", "none", data=official)


def test_every_unknown_key_of_the_command_line_is_refused_and_no_argument_of_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["pretrained", "dtype", "version", "config_source"]  # the last two are lm-eval's own
    for key, says in (
        (
            "dta",
            "unknown key 'dta'; did you mean 'data'\\? Our tasks know data, retrieval, judge, split, cut_docu",
        ),
        ("top_k", 'unknown key \'top_k\'; it is a setting of retrieval: {"retrieval": {"top_k": ...}}'),
        ("colour", "unknown key 'colour'; remove it"),
    ):
        given = told(monkeypatch, "--model_args", "pretrained=x,dtype=float32", "--metadata", json.dumps({key: 1}))
        with pytest.raises(BadInput, match=f"--metadata: {says}"):
            check_keys(KEYS, [*arguments, key], given)
    check_keys(KEYS, arguments, told(monkeypatch, "--metadata", '{"data": "x"}'))
    config = tmp_path / "lm.yaml"
    config.write_text("metadata: {colour: 1}\ngen_kwargs: max_gen_toks=7\nlimit: 3\n")
    given = told(monkeypatch, "--config", str(config), "--limit", "5")
    assert (given["gen_kwargs"], given["limit"]) == ({"max_gen_toks": 7}, 5)
    with pytest.raises(BadInput, match="unknown key 'colour'"):
        check_keys(KEYS, ["colour"], given)


def test_from_python_a_misspelt_key_is_refused_and_any_other_may_be_the_models(tmp_path: Path) -> None:
    data = str(write_own(tmp_path / "q"))
    assert command_line() == {}
    dataset("quality", "none", data=data, data_parallel_size=2, split=None, load_in_8bit=True)
    with pytest.raises(BadInput, match="unknown key 'retrival'; did you mean 'retrieval'"):
        dataset("quality", "rag", data=data, retrival={"mode": "bm25"})
