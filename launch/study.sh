#!/usr/bin/env bash
# Runs a study as a job array: every job takes its share of the runs, then the report is made.
#
#   bash launch/study.sh --config=configs/NAME.py --workdir=DIR [--jobs=8] [--local]
#       [--time=24:00:00] [--partition=NAME] [--dry-run] [FLAG...]
#
# Flags that aren't among these go to `python -m mtl_t5x.study`, e.g. --config.seeds='(0,1,2)'.
#   --jobs=N    shares of the runs
#   --local     the shares one after the other on this host, without SLURM
#   --dry-run   prints every command, and runs none
# What is finished isn't run again, so it may be started as often as one likes. SLURM starts a job
# again in the cases that gpu.sh names.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"

config='' workdir='' jobs=8 local=false dry_run=false time=24:00:00 partition='' flags=()
for argument in "$@"; do
  case $argument in
    --config=*) config=${argument#*=} ;;
    --workdir=*) workdir=${argument#*=} ;;
    --jobs=*) jobs=${argument#*=} ;;
    --local) local=true ;;
    --dry-run) dry_run=true ;;
    --time=*) time=${argument#*=} ;;
    --partition=*) partition=${argument#*=} ;;
    *) flags+=("$argument") ;;
  esac
done
if [ -z "$config" ] || [ -z "$workdir" ]; then
  echo "study.sh: give --config=configs/NAME.py and --workdir=DIR; --help says more" >&2
  exit 2
fi

if $dry_run; then echo '. launch/environment.sh && install'; else install; fi
study=(.venv/bin/python -m mtl_t5x.study --config="$config" --workdir="$workdir")
study+=(${flags[@]+"${flags[@]}"})
report=(.venv/bin/python -m mtl_t5x.report --workdir="$workdir")

if $local; then
  failed=0
  for ((index = 0; index < jobs; index++)); do
    code=0
    do_or_show "${study[@]}" --index="$index" --count="$jobs" || code=$?
    if [ "$code" -gt 1 ]; then exit "$code"; fi
    if [ "$code" -eq 1 ]; then failed=1; fi # some of its runs: the other shares go on
  done
  do_or_show "${report[@]}"
  exit "$failed"
fi

options=(--time="$time" ${partition:+--partition="$partition"})
share=("$(quoted "${study[@]}") --index=\"\$SLURM_ARRAY_TASK_ID\" --count=$jobs"
  --job-name=mtl_t5x_study --array="0-$((jobs - 1))" --ntasks=1 --output=mtl_t5x_study-%A_%a.log
  "${options[@]}")
if $dry_run; then
  slurm_script "${share[@]}" | submit --parsable
  job=ARRAY_JOB
else
  job=$(slurm_script "${share[@]}" | submit --parsable)
fi
do_or_show sbatch --job-name=mtl_t5x_report --dependency="afterany:${job%%;*}" "${options[@]}" \
  --wrap="cd $(quoted "$PWD") && $(quoted "${report[@]}")"
