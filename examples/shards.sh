#!/bin/sh
# One quarter of the documents a job: `sbatch shards.sh smt.yaml`. With `backend: {kind: vllm, ...}` in the run file
# each job serves the model on its own node. `smt mix` reads the records of all four.
#SBATCH --array=1-4 --nodes=1 --gpus-per-node=8
exec smt generate "$1" --shard "${SLURM_ARRAY_TASK_ID:?}/4"
