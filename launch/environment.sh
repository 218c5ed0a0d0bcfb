# shellcheck shell=bash
# Sourced by the launch scripts: makes .venv and installs mtl_t5x in it, once for each set of extras.
#
#   install [EXTRAS]   e.g. `install` or `install test`
#   quoted WORD…       the words as a shell would read them again
#   do_or_show WORD…   runs the command, or prints it where dry_run is true
#
# PYTHON names the interpreter to use, 3.11 or newer; the default is python3.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

install() {
  local extras=${1:-} stamp
  stamp=".venv/installed${extras:+-$extras}"
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "mtl_t5x needs Python 3.11 or newer: set PYTHON=/path/to/python3.11" >&2
      return 1
    }
    "${PYTHON:-python3}" -m venv .venv || return 1
  fi
  if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "installing mtl_t5x${extras:+ with its $extras extra} in .venv …"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --editable ".${extras:+[$extras]}" || return 1
    touch .venv/installed "$stamp" # an install with extras is one without them too
  fi
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
