#!/bin/sh
# Makes the environment of the libraries that benchmarks compare with; none of them may stand in ours.
# Usage: benchmarks/peers.sh     Environment: MOONTIDE_PEERS (default ~/.cache/moontide-peers), PYTHON (default python3)
# What pip is told by its own variables (PIP_FIND_LINKS, PIP_INDEX_URL, PIP_CERT) holds for uv, too.
set -eu
folder=${MOONTIDE_PEERS:-$HOME/.cache/moontide-peers}; py=$folder/bin/python
case "$(cd "$(dirname "$0")/.." && pwd)/.venv" in "$folder") echo "MOONTIDE_PEERS is our own .venv: choose another folder" >&2; exit 2;; esac
want=$(cksum < "$0")
if [ "$(cat "$folder/.stamp" 2>/dev/null || true)" = "$want" ]; then echo "$folder is ready"; exit 0; fi
[ -x "$py" ] || "${PYTHON:-python3}" -m venv "$folder"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
links=${UV_FIND_LINKS:-$(printf %s "${PIP_FIND_LINKS:-}" | tr -s ' ' ',')}     # pip separates by spaces, uv by commas
install() {
  "$py" -m pip install -q uv || return 1
  if [ -n "$links" ]; then UV_FIND_LINKS=$links "$folder/bin/uv" pip install -q --python "$py" "$@"
  else "$folder/bin/uv" pip install -q --python "$py" --torch-backend=cpu "$@"; fi
}
# FuxiCTR 2.3.10 reads CSV with an argument that polars 2 no longer has. It names no torch of its own: ours, for a fair race.
set -- "fuxictr==2.3.10" "polars<2" "ray[data]>=2.52" "torch==2.13.0" h5py scikit-learn pandas pyarrow numpy
install "$@" || "$py" -m pip install -q "$@"
"$py" -c 'import fuxictr, polars, torch; from model_zoo.LongCTR.DIN import DIN; print("fuxictr", fuxictr.__version__, "polars", polars.__version__, "torch", torch.__version__)'
printf '%s\n' "$want" > "$folder/.stamp"
