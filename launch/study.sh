#!/usr/bin/env bash
# Runs a study as a job array: every job takes its share of the runs, then the report is made.
#
#   bash launch/study.sh --config=configs/NAME.py --workdir=DIR [--shares=8] [--local]
#       [--time=24:00:00] [--partition=NAME] [--dry-run] [FLAG...]
#
# Flags that aren't among these go to `python -m mtl_t5x.study`, e.g. --config.seeds='(0,1,2)', or
# --jobs=N, how many runs of a share take place at a time.
#   --shares=N  shares of the runs, a job for each
#   --local     the shares one after the other on this host, without SLURM
#   --dry-run   prints every command, and runs none
# What is finished isn't run again, so it may be started as often as one likes. SLURM starts a job
# again in the cases that gpu.sh names.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"

config='' workdir='' shares=8 local=false dry_run=false time=24:00:00 partition='' flags=()
for argument in "$@"; do
  case $argument in
    --config=*) config=${argument#*=} ;;
    --workdir=*) workdir=${argument#*=} ;;
    --shares=*) shares=${argument#*=} ;;
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

# Runs the command and, told to stop, tells it so: bash by itself would wait for its end first.
passing_on() {
  local code=0 pid stopped=false
  told=false
  "$@" &
  pid=$!
  trap 'told=true; kill -TERM "$pid" 2>/dev/null || true' TERM INT
  wait "$pid" || code=$?
  while $told; do # the wait was cut short
    told=false stopped=true code=0
    wait "$pid" || code=$?
  done
  trap - TERM INT
  if $stopped && [ "$code" -le 1 ]; then code=42; fi # it had just ended: nothing else begins
  return "$code"
}

if $local; then
  failed=0
  for ((index = 0; index < shares; index++)); do
    code=0 share=("${study[@]}" --index="$index" --count="$shares")
    if $dry_run; then do_or_show "${share[@]}"; else passing_on "${share[@]}" || code=$?; fi
    if [ "$code" -gt 1 ]; then exit "$code"; fi
    if [ "$code" -eq 1 ]; then failed=1; fi # some of its runs: the other shares go on
  done
  do_or_show "${report[@]}"
  exit "$failed"
fi

options=(--time="$time" ${partition:+--partition="$partition"})
share=("$(quoted "${study[@]}") --index=\"\$SLURM_ARRAY_TASK_ID\" --count=$shares"
  --job-name=mtl_t5x_study --array="0-$((shares - 1))" --ntasks=1 --output=mtl_t5x_study-%A_%a.log
  "${options[@]}")
if $dry_run; then
  slurm_script "${share[@]}" | submit --parsable
  job=ARRAY_JOB
else
  job=$(slurm_script "${share[@]}" | submit --parsable)
fi
do_or_show sbatch --job-name=mtl_t5x_report --dependency="afterany:${job%%;*}" "${options[@]}" \
  --wrap="cd $(quoted "$PWD") && $(quoted "${report[@]}")"
