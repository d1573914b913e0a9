#!/bin/sh
# One Ray job a part of a study's cells: `RAY_ADDRESS=http://head:8265 sh study-ray.sh /shared/study.yaml 12 8` submits
# twelve, each of which waits until a node has 8 GPUs for it. `smt` and the study's path must be there on every node.
# Here and on the head node Ray needs its extra, `pip install 'ray[default]'`: without it there is no server for jobs.
# What the cells share is made by the first job that needs it; where waiting GPUs cost money, submit one part first:
# `ray job submit -- smt study run /shared/study.yaml --cell 1/12`.
set -eu
study=$(realpath "$1")
part=1
while [ "$part" -le "$2" ]; do
    ray job submit --no-wait --entrypoint-num-gpus "${3:-1}" -- smt study run "$study" --cell "$part/$2"
    part=$((part + 1))
done
