"""The run file: one YAML that the user owns, checked key by key. Each setting is defined here, and nowhere else."""

from smt_plugin.config.retrieval import MINILM, MODES, ORDERS, Order, RetrievalSettings, retrieval_settings
from smt_plugin.config.run_file import example_run_file, load_yaml, parse_yaml, read_run_file, write_resolved
from smt_plugin.config.sections import (
    EvaluateSection,
    JudgeSection,
    LeaksSection,
    MicroworldBackend,
    MixSection,
    OpenAIEndpoints,
    Price,
    RunFile,
    TranscribeSection,
)
from smt_plugin.config.study_file import StudyFile, read_study_file
from smt_plugin.config.values import NO_THINKING, first_problem, parse_tokens

__all__ = [
    "MINILM",
    "MODES",
    "NO_THINKING",
    "ORDERS",
    "EvaluateSection",
    "JudgeSection",
    "LeaksSection",
    "MicroworldBackend",
    "MixSection",
    "OpenAIEndpoints",
    "Order",
    "Price",
    "RetrievalSettings",
    "RunFile",
    "StudyFile",
    "TranscribeSection",
    "example_run_file",
    "first_problem",
    "load_yaml",
    "parse_tokens",
    "parse_yaml",
    "read_run_file",
    "read_study_file",
    "retrieval_settings",
    "write_resolved",
]
