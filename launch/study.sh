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
# What is finished isn't run again, so it may be started as often as one likes.
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
  for ((index = 0; index < jobs; index++)); do
    do_or_show "${study[@]}" --index="$index" --count="$jobs"
  done
  do_or_show "${report[@]}"
  exit
fi

options=(--time="$time" ${partition:+--partition="$partition"})
share="cd $(quoted "$PWD") && $(quoted "${study[@]}")"
array=(sbatch --parsable --job-name=mtl_t5x_study --array="0-$((jobs - 1))" --requeue "${options[@]}"
  --wrap="$share --index=\$SLURM_ARRAY_TASK_ID --count=$jobs")
if $dry_run; then
  do_or_show "${array[@]}"
  job=ARRAY_JOB
else
  job=$("${array[@]}")
fi
do_or_show sbatch --job-name=mtl_t5x_report --dependency="afterany:$job" "${options[@]}" \
  --wrap="cd $(quoted "$PWD") && $(quoted "${report[@]}")"
