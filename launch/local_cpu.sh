#!/usr/bin/env bash
# Installs mtl_t5x in .venv and runs the main job on the embedded benchmark: one multi-task model and
# eight single-task baselines over two seeds, then the report. What is finished isn't run again.
#
#   bash launch/local_cpu.sh [FLAG...]
#
# Flags go to `python -m mtl_t5x.study`, e.g. --workdir=DIR, --config=configs/NAME.py,
# --config.seeds='(0,1,2)'.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install

export JAX_PLATFORMS=cpu
exec .venv/bin/python -m mtl_t5x.study --config=configs/mini_glue.py --workdir=runs/mini_glue "$@"
