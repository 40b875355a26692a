#!/bin/sh
# The only installer: makes the virtual environment and brings it to what pyproject.toml and constraints.txt say.
# Usage: tools/bootstrap.sh [extras]     Environment: VENV (default .venv), PYTHON (default python3)
set -eu
extras=${1:-dev}; venv=${VENV:-.venv}; py=$venv/bin/python
want="$(cat pyproject.toml constraints.txt "$0" | cksum) $extras"
if [ "$(cat "$venv/.stamp" 2>/dev/null || true)" = "$want" ]; then exit 0; fi
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "moontide needs Python 3.11 or newer; set PYTHON to one, for example: make demo PYTHON=python3.12" >&2; exit 2; }
[ -x "$py" ] || "${PYTHON:-python3}" -m venv "$venv"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"   # hand pip's certificate to uv
links=${UV_FIND_LINKS:-$(printf %s "${PIP_FIND_LINKS:-}" | tr -s ' ' ',')}     # pip separates by spaces, uv by commas
with_uv() {
  "$py" -m pip install -q uv || return 1
  if [ -n "$links" ]; then UV_FIND_LINKS=$links "$venv/bin/uv" pip install -q --python "$py" "$@"
  else "$venv/bin/uv" pip install -q --python "$py" --torch-backend=auto "$@"; fi
}
with_uv -e ".[$extras]" -c constraints.txt || "$py" -m pip install -e ".[$extras]" -c constraints.txt
printf '%s\n' "$want" > "$venv/.stamp"
