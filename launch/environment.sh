# shellcheck shell=bash
# Sourced by the launch scripts: makes .venv and installs mtl_t5x in it, once for each set of extras.
#
#   install [EXTRAS]   e.g. `install` or `install test`
#   quoted WORD…       the words as a shell would read them again
#   do_or_show WORD…   runs the command, or prints it where dry_run is true
#   slurm_script COMMAND OPTION…   a batch script, with sbatch's options, that runs COMMAND by srun
#   submit OPTION…                 hands such a script, its input, to sbatch, or prints it instead
#
# PYTHON names the interpreter to use, 3.11 or newer; by default the first of python3, python3.11, …
# that suits, else one that uv downloads: a TPU VM's image has Python 3.10 alone.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

install() {
  local extras=${1:-} stamp
  stamp=".venv/installed${extras:+-$extras}"
  if [ ! -x .venv/bin/python ]; then
    make_venv || {
      rm -rf .venv # half of one would be taken for a whole one
      echo "mtl_t5x needs Python 3.11 or newer with its venv module, which ${PYTHON:-this host}" \
        "lacks: install it, then set PYTHON=/path/to/python3.11" >&2
      return 1
    }
  fi
  if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "installing mtl_t5x${extras:+ with its $extras extra} in .venv …"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --editable ".${extras:+[$extras]}" || return 1
    touch .venv/installed "$stamp" # an install with extras is one without them too
  fi
}

make_venv() {
  local python pythons=(python3 python3.11 python3.12 python3.13 python3.14)
  # Debian ships what a venv is made of apart from the interpreter.
  local suits='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
  if [ -n "${PYTHON:-}" ]; then pythons=("$PYTHON"); fi
  for python in "${pythons[@]}"; do
    if "$python" -c "$suits" 2>/dev/null; then
      "$python" -m venv .venv
      return
    fi
  done
  if [ -n "${PYTHON:-}" ]; then return 1; fi
  echo "no Python 3.11 or newer is here: getting one by uv …"
  venv_by_uv 2>/dev/null
}

venv_by_uv() {
  local uv folder code=0
  folder=$(mktemp -d)
  # With --target pip needs no venv, and leaves the system's own packages alone.
  uv=$(command -v uv) || {
    uv=$folder/bin/uv
    python3 -m pip install --quiet --target "$folder" uv
  }
  "$uv" venv --quiet --seed --python 3.11 .venv || code=1
  rm -rf "$folder"
  return "$code"
}

quoted() {
  local word first=true
  for word in "$@"; do
    $first || printf ' '
    first=false
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) printf "'%s'" "${word//\'/\'\\\'\'}" ;;
      *) printf '%s' "$word" ;;
    esac
  done
}

do_or_show() {
  if ${dry_run:-false}; then quoted "$@" && echo; else "$@"; fi
}

# SLURM sends SIGTERM two minutes before the end to what srun started. The script hears nothing of
# it (it alone would with B:TERM) and lives to say whether SLURM is to start the job again: always
# where the run was told to stop and saved (42), and where it wasn't started again 5 times already
# if a stage hung (43; 142 where it held the interpreter), a process was killed (137; its peers end
# with 134), or SIGTERM found it where nothing saves, as in the last evaluation (143).
slurm_script() {
  local command=$1
  shift
  echo '#!/usr/bin/env bash'
  printf '#SBATCH %s\n' "$@" --signal=TERM@120 --requeue --open-mode=append
  cat <<EOF
cd $(quoted "$PWD") || exit 1
code=0
srun --kill-on-bad-exit=0 $command || code=\$?
again=false
case \$code in
  42) again=true ;;
  43 | 134 | 137 | 142 | 143) if [ "\${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then again=true; fi ;;
esac
job=\$SLURM_JOB_ID # of one task of an array it may stand for the whole array
if [ -n "\${SLURM_ARRAY_TASK_ID:-}" ]; then job=\${SLURM_ARRAY_JOB_ID}_\$SLURM_ARRAY_TASK_ID; fi
if \$again; then scontrol requeue "\$job"; fi
exit "\$code"
EOF
}

submit() {
  if ${dry_run:-false}; then
    echo "$(quoted sbatch "$@") <<'BATCH'" && cat && echo BATCH
  else
    sbatch "$@"
  fi
}
