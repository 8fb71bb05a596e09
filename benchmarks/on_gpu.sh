#!/usr/bin/env bash
# Measure on a GPU what a CPU is too slow for, most valuable first, in at most 12 minutes.
#
#     bash benchmarks/on_gpu.sh [RESULTS]
#
# RESULTS is a folder, from the project's root. Each step has a time limit of its own, and writes
# RESULTS/STEP.txt as it goes. A step that fails or
# runs out of time does not stop the next one. It needs the package and its tests' requirements.
set -u
cd "$(dirname "$0")/.." || exit
results=${1:-runs/on_gpu}
mkdir -p "$results"
export PYTHONUNBUFFERED=1
export CUDA_DEVICE_MAX_CONNECTIONS=32 # queues: as many networks can train side by side
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

step() { # step NAME SECONDS COMMAND...
    echo "== $1 (at most $2 s)"
    timeout "$2" "${@:3}" > >(tee "$results/$1.txt") 2>&1
    echo "== $1: exit status $?"
}

step tests 80 python3 -m pytest -q -o addopts= -W error -k cuda tests
step speed 80 python3 benchmarks/speed.py --part retraining
step side_by_side 50 python3 benchmarks/speed.py --part retraining --classifiers small_cnn \
    --side-by-side 1 4 8 16 32 64 --bank pcam-planted
step recipe_small 40 python3 benchmarks/recipe.py
step recipe_resnet34 90 python3 benchmarks/recipe.py --set architecture=resnet34
step few_images 150 python3 benchmarks/few_images.py
step real_rewards 100 python3 benchmarks/real_rewards.py
step table2_96px 120 python3 benchmarks/paper_tables.py --scale gpu --tables pcam
