"""Every shipped config: axolotl's own validation for its GPUs, one table of differences, a training on a CPU."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.throughput import SHAPES
from smt_plugin.assets import asset_dir
from smt_plugin.config import MixSection
from smt_plugin.mixing.mix import mix_run
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.axolotl_schema import unknown_keys
from smt_plugin.training.shipped import config_files, read_config
from smt_plugin.training.trainings import Training
from tests.quality_data import write_own
from tests.tiny_llama import GEMMA_LIKE, LLAMA_LIKE, MICROWORLD_LIKE, QWEN_LIKE, make_model, make_tokenizer
from tests.training_records import CHATS, write_records

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
# flash-linear-attention, which axolotl brings along, computes on GPUs alone; without it transformers does it in torch.
sys.modules["fla"] = None  # type: ignore[assignment]

ON_A_CPU = {**dict.fromkeys(("bf16", "fp8", "tf32"), False), "n_gpu": 0, "n_node": 1, "compute_capability": None}

# What may differ from llama-3.1-8b/full, and nothing else; None: the config lacks the key.
MODELS: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {"base_model": "meta-llama/Llama-3.2-1B-Instruct", "gradient_accumulation_steps": 4},
    "llama-3.1-8b": {},
    "qwen3-1.7b": {"base_model": "Qwen/Qwen3-1.7B", "gradient_accumulation_steps": 4},
    "qwen3-4b": {"base_model": "Qwen/Qwen3-4B", "gradient_accumulation_steps": 2},
    "qwen3-8b": {"base_model": "Qwen/Qwen3-8B"},
    "qwen3-14b": {"base_model": "Qwen/Qwen3-14B", "micro_batch_size": 2},
    "qwen3.5-4b": {
        "base_model": "Qwen/Qwen3.5-4B",
        "gradient_accumulation_steps": 2,
        "freeze_mm_modules": True,
        "liger_rope": None,
    },
    "gemma-4-e2b": {
        "base_model": "google/gemma-4-E2B-it",
        "eot_tokens": ["<turn|>"],
        "special_tokens": None,
        "freeze_mm_modules": True,
        "gemma4_hybrid_attn_impl": True,
        "liger_rope": None,
    },
}
PAPER = [model for model in MODELS if model not in ("qwen3.5-4b", "gemma-4-e2b")]
QWEN = {"eot_tokens": ["<|im_end|>"], "special_tokens": None}
LORA = {
    "adapter": "lora",
    "lora_r": 128,
    "lora_alpha": 128,
    "lora_dropout": 0,
    "lora_target_linear": True,
    "learning_rate": 0.0002,
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "deepspeed": None,
}
GEMMA_LORA = {
    "lora_target_linear": None,
    "lora_target_modules": r"model\.(language_model\.)?layers\.\d+\.(mlp|self_attn)\.(gate|up|down|q|k|v|o)_proj",
}
# What else a CPU lacks: kernels that keep packed texts apart in linear attention; flash attention beside sdpa.
ON_A_CPU_ALONE: dict[str, dict[str, Any]] = {
    "qwen3.5-4b/full": {"sample_packing": False, "pad_to_sequence_len": None},
    "gemma-4-e2b/lora": {"gemma4_hybrid_attn_impl": None},
}
CONFIGS = list(config_files())
SMALL = [name for name in CONFIGS if name.startswith(("microworld/", "smollm2-135m/"))]  # for the quickstarts
FOR_GPUS = [name for name in CONFIGS if name not in SMALL]
ON_CPUS = [name for name in SMALL if not name.endswith("/gpu")]


def header(name: str) -> str:
    text = config_files()[name].read_text(encoding="utf-8")
    return text[: text.index("\n\n")]


def gpus(name: str) -> int:
    return int(re.search(r" (?:on one node of (\d+) GPUs|on one GPU)", header(name)).group(1) or 1)  # type: ignore[union-attr]


def parameters(shape: dict[str, Any], has_head_norms: bool) -> int:
    """Weights of a Llama or Qwen3 model."""
    hidden, head = shape["hidden_size"], shape["head_dim"]
    heads = shape["num_attention_heads"] + shape["num_key_value_heads"]
    layer = 2 * hidden * heads * head + has_head_norms * 2 * head + 3 * hidden * shape["intermediate_size"] + 2 * hidden
    embeddings = shape["vocab_size"] * hidden * (1 if shape["tie_word_embeddings"] else 2)
    return shape["num_hidden_layers"] * layer + hidden + embeddings


def counted(model: str) -> tuple[int, int, int]:
    """Weights of a model's text part, how many of them compute, and those of an adapter of rank 128."""
    if model in SHAPES:
        count = parameters(SHAPES[model], model.startswith("qwen"))
        return count, count, adapter_parameters(SHAPES[model], rank=128)
    import torch
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig, Qwen3_5ForCausalLM, Qwen3_5TextConfig

    # Read in the config.json files of models that were trained from these; what is not here is transformers' default.
    shapes: dict[str, Any] = {
        "qwen3.5-4b": lambda: Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(
                **{"num_hidden_layers": 32, "hidden_size": 2560, "intermediate_size": 9216, "vocab_size": 248_320},
                **{"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256},
                **{"linear_num_key_heads": 16, "linear_num_value_heads": 32, "tie_word_embeddings": True},
            )
        ),
        "gemma-4-e2b": lambda: Gemma4ForCausalLM(
            Gemma4TextConfig(
                **{
                    "num_hidden_layers": 35,
                    "hidden_size": 1536,
                    "intermediate_size": 6144,
                    "use_double_wide_mlp": True,
                },
                **{"num_attention_heads": 8, "num_key_value_heads": 1, "num_kv_shared_layers": 20},
                layer_types=["full_attention" if n % 5 == 4 else "sliding_attention" for n in range(35)],
            )
        ),
    }
    with torch.device("meta"):
        made = shapes[model]()
    sizes = {name: weights.numel() for name, weights in made.named_parameters()}
    of_layers = sum(size for name, size in sizes.items() if "embed_tokens_per_layer" in name)
    targets = [
        each
        for name, each in made.named_modules()
        if re.fullmatch(str(GEMMA_LORA["lora_target_modules"]), name) and model == "gemma-4-e2b"
    ]
    adapter = sum(128 * (each.in_features + each.out_features) for each in targets)
    return sum(sizes.values()), sum(sizes.values()) - of_layers, adapter


def adapter_parameters(shape: dict[str, Any], rank: int) -> int:
    hidden, head = shape["hidden_size"], shape["head_dim"]
    all_heads, some_heads = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    sides = 2 * (hidden + all_heads) + 2 * (hidden + some_heads) + 3 * (hidden + shape["intermediate_size"])
    return int(shape["num_hidden_layers"] * sides * rank)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_axolotl_accepts_the_config_on_its_target_machines(name: str, nodes: int) -> None:
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    on_gpus = {**dict.fromkeys(("bf16", "fp8", "tf32"), True), "n_gpu": 4, "n_node": nodes}
    capabilities = {**on_gpus, "compute_capability": "sm_90"} if name not in ON_CPUS else ON_A_CPU
    config = DictDefault(read_config(name))
    prepare_plugins(config)
    config = validate_config(config, capabilities=capabilities, env_capabilities={"torch_version": version("torch")})
    assert config.attn_implementation in ("flash_attention_2", "sdpa")
    assert config.sample_packing is True


@pytest.mark.parametrize("name", CONFIGS)
def test_no_key_is_deprecated(name: str) -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig

    fields = AxolotlInputConfig.model_fields
    assert fields["flash_attention"].deprecated
    assert not [key for key in read_config(name) if key in fields and fields[key].deprecated]


@pytest.mark.parametrize("name", CONFIGS)
def test_no_key_is_unknown_to_axolotl(name: str) -> None:
    assert unknown_keys(read_config(name)) == []


def test_misspelt_keys_are_found_at_every_level() -> None:
    values = read_config("qwen3-8b/full")
    values["learning_rat"] = 1
    values["datasets"][1]["feild"] = "text"
    values["special_tokens"] = {"padding": "x"}
    values["test_datasets"] = [{"path": "x.jsonl", "spilt": "train"}]
    values["peft"] = {"loftq_config": {"loftq_bit": 4}}
    values["deepspeed"] = {"its": "own"}
    values[3] = "three"
    assert unknown_keys(values) == [
        *("datasets[1].feild", "learning_rat", "special_tokens.padding", "test_datasets[0].spilt"),
        *("peft.loftq_config.loftq_bit", "3"),
    ]


def test_every_model_of_the_paper_has_its_config_and_adapters_from_8b_on() -> None:
    adapters = ["llama-3.1-8b/lora", "qwen3-8b/lora", "qwen3-14b/lora"]
    newer = ["qwen3.5-4b/full", "gemma-4-e2b/lora"]
    assert set(FOR_GPUS) == {*(f"{model}/full" for model in PAPER), *adapters, *newer}


@pytest.mark.parametrize("name", FOR_GPUS)
def test_configs_differ_only_in_what_the_table_allows(name: str) -> None:
    model, kind = name.split("/")
    expected = {**read_config("llama-3.1-8b/full"), **MODELS[model]}
    expected |= QWEN if model.startswith("qwen") else {}
    expected |= LORA if kind == "lora" else {}
    expected |= GEMMA_LORA if model.startswith("gemma") else {}
    assert read_config(name) == {key: value for key, value in expected.items() if value is not None}


def test_smollm2s_configs_for_cpu_and_gpu_train_alike() -> None:
    on_cpu, on_gpu = read_config("smollm2-135m/cpu"), read_config("smollm2-135m/gpu")
    other = {key for key in on_cpu.keys() | on_gpu.keys() if on_cpu.get(key) != on_gpu.get(key)}
    assert other == {"bf16", "fp16", "tf32", "plugins"}


@pytest.mark.parametrize("name", FOR_GPUS)
def test_training_follows_the_paper(name: str) -> None:
    values = read_config(name)
    assert values["micro_batch_size"] * values["gradient_accumulation_steps"] * gpus(name) == 16
    assert (values["sequence_len"], values["num_epochs"]) == (2048, 2)
    assert (values["weight_decay"], values["adam_beta1"], values["adam_beta2"]) == (0.01, 0.9, 0.999)
    assert (values["lr_scheduler"], values["warmup_ratio"]) == ("cosine", 0.05)
    assert name.endswith("/lora") or values["learning_rate"] == 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_the_header_says_what_it_needs_how_long_it_takes_and_how_to_run_it(name: str) -> None:
    words = ["Needs", "Takes", "Data", "Check", "Run", "Resume", "Change"]
    assert ("Not run on a GPU." in header(name).splitlines()[0]) == (name not in ON_CPUS)
    if name in FOR_GPUS:
        words.append("Merge" if name.endswith("/lora") else "Nodes")
    for word in words:
        assert re.search(rf"^# {word}  ", header(name), re.MULTILINE), word


@pytest.mark.parametrize("name", FOR_GPUS)
def test_the_header_installs_each_line_of_axolotl_with_the_extras_that_it_has(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    old, new = (spec.partition(";")[0].removeprefix("axolotl") for spec in project["optional-dependencies"]["train"])
    deepspeed = not name.endswith("/lora")
    lines = {
        f"Python 3.11: pip install 'axolotl[{'flash-attn,deepspeed' if deepspeed else 'flash-attn'}]{old}'",
        f"from 3.12 on: pip install 'axolotl{'[deepspeed]' if deepspeed else ''}{new}'",
    }
    assert all(line in header(name) for line in lines)
    ours = next(line for line in lines if line.startswith("Python 3.11") == (sys.version_info < (3, 12)))
    named = re.search(r"axolotl\[(.*)\]", ours)
    assert set(named[1].split(",") if named else []) <= set(metadata("axolotl").get_all("Provides-Extra") or ())


@pytest.mark.parametrize("name", FOR_GPUS)
def test_the_headers_sizes_memory_flop_and_hours_come_from_the_formula_shown(name: str) -> None:
    model, kind = name.split("/")
    text = header(name)
    of_all, count, adapter = counted(model)
    size = f"{count / 1e9:.2f}e9"
    flop = (4 if kind == "lora" else 6) * count * 778e6 * 2
    hours = flop / (0.4 * 989e12 * 3600)
    said = re.search(r"(\d) x (\S+) x 778e6 x 2 = (\S+) FLOP = (\d+) (?:GPU-hours|h)", text)
    assert said is not None
    assert said.groups() == ("4" if kind == "lora" else "6", size, f"{flop:.1e}".replace("e+", "e"), f"{hours:.0f}")
    if kind == "lora":
        # What reads pictures and sounds has some 0.45e9 more.
        held = of_all + (0.45e9 if model == "gemma-4-e2b" else 0)
        assert f"({2 * held / 1e9:.0f} GB)" in text
        words = " ".join(text.replace("\n#", " ").split())
        assert (
            f"{adapter / 1e9:.2f}e9 (fp32 weight, gradient and two Adam moments: {16 * adapter / 1e9:.0f} GB)" in words
        )
    else:
        assert f"{size} x 16 = {16 * count / 1e9:.0f} GB" in text
        if gpus(name) > 1:
            assert f"{16 * count / 1e9 / gpus(name):.0f} GB a GPU" in text
            assert f"{hours / gpus(name):.0f} h on {gpus(name)}" in text


def axolotl(folder: Path, *arguments: str | Path) -> str:
    """Run an axolotl command as a user does, but without flash-linear-attention, and return what it printed."""
    (folder / "without" / "fla").mkdir(parents=True, exist_ok=True)
    (folder / "without" / "fla" / "__init__.py").write_text("raise ImportError\n")
    paths = [str(folder / "without"), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    result = subprocess.run(
        [Path(sys.executable).parent / "axolotl", *arguments],
        cwd=folder,
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_trains_on_a_cpu_and_the_model_answers_through_lm_eval(name: str, tmp_path: Path) -> None:
    families = {
        "llama": (LLAMA_LIKE, "llama"),
        "qwen3": (QWEN_LIKE, "qwen3"),
        "qwen3.5": (QWEN_LIKE, "qwen3_5"),
        "gemma": (GEMMA_LIKE, "gemma4"),
        "smollm2": (QWEN_LIKE, "llama"),
        "microworld": (MICROWORLD_LIKE, "llama"),
    }
    style, architecture = families[name.split("-")[0].split("/")[0]]
    base = make_model(make_tokenizer(tmp_path / "base", style), architecture)
    run = write_records(tmp_path, count=60)
    mix_run(run, MixSection(tokenizer=str(base), replay=str(tmp_path / "replay.jsonl"), replay_share=0.3))
    path = write_axolotl_config(run, name, base_model=str(base))
    values = yaml.safe_load(path.read_text())
    overlay = yaml.safe_load((Path(__file__).parents[1] / "cpu_overlay.yaml").read_text())
    assert not overlay.keys() & {"datasets", "eot_tokens", "sample_packing", "sequence_len", "learning_rate"}
    values = {**values, **overlay, **ON_A_CPU_ALONE.get(name, {})}
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text(yaml.safe_dump(values))

    printed = axolotl(tmp_path, "train", path, "--launcher", "python")
    assert len(re.findall(r"'loss': ", printed)) >= 6
    if name.endswith("/lora"):
        axolotl(tmp_path, "merge-lora", path)
    model = Training(run).model
    before, after = (chat_loss(folder) for folder in (base, model))
    assert after < before
    assert 0 <= likelihood_accuracy(model, tmp_path / "corpus") <= 1


def chat_loss(folder: Path) -> float:
    """Loss on a chat that was trained on, in the saved template, of a model loaded with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(CHATS[0], tokenize=False)
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(tokens, labels=tokens).loss
    return float(loss)


def likelihood_accuracy(model: Path, corpus: Path) -> float:
    """Accuracy that lm-eval finds for a model on eight questions about four invented stories."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(asset_dir("lm_eval_tasks")), include_defaults=False, metadata={"data": str(write_own(corpus))}
    )
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "device": "cpu"},
        tasks=["corpus_smt_ll"],
        task_manager=manager,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert len(results["samples"]["corpus_smt_ll"]) == 8
    return float(results["results"]["corpus_smt_ll"]["acc,none"])
