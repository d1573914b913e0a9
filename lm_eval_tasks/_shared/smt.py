from smt_plugin.evaluation.lm_eval_link import dataset, process_results  # noqa: F401
