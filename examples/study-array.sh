#!/bin/sh
# One part of a study's cells a job, for twelve cells: `sbatch --array=1-12 study-array.sh study.yaml`. What they share is
# made by the first job that needs it; where waiting jobs cost money, let `smt study run study.yaml --cell 1/12` end first.
#SBATCH --nodes=1 --gpus-per-node=8
exec smt study run "$1" --cell "${SLURM_ARRAY_TASK_ID:?}/${SLURM_ARRAY_TASK_COUNT:?}"
