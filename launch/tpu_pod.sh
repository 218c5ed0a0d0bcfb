#!/usr/bin/env bash
# Trains on a TPU VM slice of Google Cloud: makes the slice or takes the one there is, installs on
# all its workers, runs the same command on each, and collects their logs.
#
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE [--type=v5litepod-16] [--version=RUNTIME]
#       [--project=PROJECT] [--spot | --reserved | --queued] [--logs=DIR] [--delete] [--dry-run]
#       [FLAG...]
#
# Flags that aren't among these go to `python -m mtl_t5x.main`, e.g. --gin_file=…,
# --gin.MODEL_DIR=\"gs://BUCKET/run\". MODEL_DIR must be a bucket that every worker reaches. Where
# saving takes long, --gin.checkpoints.Settings.asynchronous=True goes on training meanwhile.
#   --dry-run   prints every command and runs none
#   --spot      asks for spot capacity by a queued resource, and waits until it is given
#   --reserved  the same of a reservation
#   --queued    the same of on-demand capacity, which else is given at once or refused
#   --delete    deletes the slice after the run, or without a FLAG at once
#   --logs=DIR  where the workers' logs are put; runs/tpu by default
# It needs gcloud, logged in. A run that was interrupted goes on when it is started again, on a new
# slice where the spot capacity was taken back.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"

name='' zone='' type=v5litepod-16 version=v2-alpha-tpuv5-lite project='' logs=runs/tpu
queued=false tier=() delete=false dry_run=false flags=()
for argument in "$@"; do
  case $argument in
    --name=*) name=${argument#*=} ;;
    --zone=*) zone=${argument#*=} ;;
    --type=*) type=${argument#*=} ;;
    --version=*) version=${argument#*=} ;;
    --project=*) project=${argument#*=} ;;
    --logs=*) logs=${argument#*=} ;;
    --spot | --reserved) queued=true tier=("$argument") ;;
    --queued) queued=true ;;
    --delete) delete=true ;;
    --dry-run) dry_run=true ;;
    *) flags+=("$argument") ;;
  esac
done
if $dry_run; then name=${name:-NAME} zone=${zone:-ZONE}; fi
if [ -z "$name" ] || [ -z "$zone" ]; then
  echo "tpu_pod.sh: give --name=NAME and --zone=ZONE of the TPU VM slice; --help says more" >&2
  exit 2
fi

where=(--zone="$zone" ${project:+--project="$project"})

on_all_workers() {
  do_or_show gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

queue_state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

delete_slice() {
  if $queued || { ! $dry_run && queue_state >/dev/null 2>&1; }; then
    # --force: its slice as well.
    do_or_show gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    do_or_show gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

make_slice() {
  local state=''
  if $queued && ! $dry_run; then state=$(queue_state 2>/dev/null) || state=''; fi
  case $state in
    FAILED | SUSPENDING | SUSPENDED) # it never becomes active again
      echo "the queued resource $name is $state: it is deleted, and made anew"
      delete_slice
      ;;
    ?*) return ;;
  esac
  if ! $dry_run && gcloud compute tpus tpu-vm describe "$name" "${where[@]}" >/dev/null 2>&1; then
    queued=false
  elif $queued; then
    do_or_show gcloud compute tpus queued-resources create "$name" --node-id="$name" \
      "${where[@]}" --accelerator-type="$type" --runtime-version="$version" ${tier[@]+"${tier[@]}"}
  else
    do_or_show gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
      --accelerator-type="$type" --version="$version"
  fi
}

wait_for_slice() {
  local state describe=(gcloud compute tpus queued-resources describe "$name" "${where[@]}")
  if $dry_run; then
    echo "until [ \"\$($(quoted "${describe[@]}" '--format=value(state.state)'))\" = ACTIVE ];" \
      "do sleep 60; done"
    return
  fi
  while true; do
    state=$(queue_state)
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        echo "tpu_pod.sh: the queued resource $name is $state, as $(quoted "${describe[@]}")" \
          "explains; start this again to ask anew" >&2
        return 1
        ;;
    esac
    echo "$(date +%H:%M) waiting for $name: $state"
    sleep 60
  done
}

if $delete && [ ${#flags[@]} -eq 0 ]; then
  delete_slice
  exit
fi

make_slice
if $delete; then trap delete_slice EXIT; fi
if $queued; then wait_for_slice; fi

archive=$(mktemp -u).tar.gz
do_or_show tar --exclude=.venv --exclude=runs --exclude=.git -czf "$archive" .
do_or_show gcloud compute tpus tpu-vm scp "$archive" "$name:mtl_t5x.tar.gz" "${where[@]}" --worker=all
do_or_show rm -f "$archive"
on_all_workers "mkdir -p mtl_t5x && tar -xzf mtl_t5x.tar.gz -C mtl_t5x && cd mtl_t5x && \
. launch/environment.sh && install gcs && .venv/bin/python -m pip install --quiet 'jax[tpu]' \
--constraint constraints.txt"

code=0
on_all_workers "cd mtl_t5x && set -o pipefail && \
.venv/bin/python -m mtl_t5x.main $(quoted ${flags[@]+"${flags[@]}"}) 2>&1 | tee -a ../mtl_t5x.log" || code=$?
do_or_show mkdir -p "$logs"
do_or_show gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
  --output-directory="$logs" --command="cat mtl_t5x.log"
exit "$code"
