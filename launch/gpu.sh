#!/usr/bin/env bash
# Trains on GPUs: on all of this host's, or under SLURM on all of a job's, one process per GPU.
#
#   bash launch/gpu.sh [--dry-run] [FLAG...]
#   bash launch/gpu.sh --slurm [--nodes=1] [--gpus-per-node=8] [--time=24:00:00] [--partition=NAME]
#       [--dry-run] [FLAG...]
#
# Flags that aren't among these go to `python -m mtl_t5x.main`, e.g. --gin_file=…,
# --gin.MODEL_DIR=\"/shared/run\", --gin.sharding.Mesh.fsdp=True. MODEL_DIR must be a folder that
# every node reaches.
#   --dry-run   prints every command, and SLURM's batch script, and runs none
#   --slurm     submits a job that SLURM starts again when it was preempted (exit code 42: the run
#               was told to stop and saved), and, unless it was started again 5 times already,
#               when a stage hung (43, 142) or a process was killed (134, 137, 143)
# JAX_CUDA names the extra of jax that is installed; cuda13 by default.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"

slurm=false dry_run=false nodes=1 gpus=8 time=24:00:00 partition='' flags=()
for argument in "$@"; do
  case $argument in
    --slurm) slurm=true ;;
    --dry-run) dry_run=true ;;
    --nodes=*) nodes=${argument#*=} ;;
    --gpus-per-node=*) gpus=${argument#*=} ;;
    --time=*) time=${argument#*=} ;;
    --partition=*) partition=${argument#*=} ;;
    *) flags+=("$argument") ;;
  esac
done

if $dry_run; then echo '. launch/environment.sh && install'; else install; fi
do_or_show .venv/bin/python -m pip install --quiet "jax[${JAX_CUDA:-cuda13}]" \
  --constraint constraints.txt

run=(.venv/bin/python -m mtl_t5x.main ${flags[@]+"${flags[@]}"})
if ! $slurm; then
  do_or_show exec "${run[@]}" # so that the run itself hears SIGTERM
  exit
fi

slurm_script "$(quoted "${run[@]}")" --job-name=mtl_t5x --nodes="$nodes" \
  --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --time="$time" --output=mtl_t5x-%j.log \
  ${partition:+--partition="$partition"} | submit
