#!/usr/bin/env bash
# Installs mtl_t5x in .venv and runs the main job on the embedded benchmark: one multi-task model and
# eight single-task baselines over two seeds, then the report. As many runs as help take place at a
# time, each on cores of its own. What is finished isn't run again; Ctrl-C saves what is under way.
#
#   bash launch/local_cpu.sh [FLAG...]
#
# Flags go to `python -m mtl_t5x.study`, e.g. --jobs=1, --workdir=DIR, --config=configs/NAME.py,
# --config.seeds='(0,1,2)'.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install

export JAX_PLATFORMS=cpu
exec .venv/bin/python -m mtl_t5x.study --config=configs/mini_glue.py --workdir=runs/mini_glue "$@"
