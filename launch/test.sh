#!/usr/bin/env bash
# Installs mtl_t5x with its test extra in .venv and runs the tests.
#
#   bash launch/test.sh [ARGUMENT...]
#
# Arguments go to pytest, e.g. -m slow, tests/step_test.py.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit ;; esac
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"
install test

export JAX_PLATFORMS=cpu
# Huge pages for what a step gives back and takes anew; mtl_t5x/jobs/places.py says what that saves.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
# One process per core; a file's tests stay together, as they share runs and compilations. One that
# crashes isn't replaced: xdist 3.8 may wait for ever for what its successor was given.
exec .venv/bin/python -m pytest --numprocesses=auto --dist=loadfile \
  --no-loadscope-reorder --max-worker-restart=0 "$@"
