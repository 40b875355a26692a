#!/bin/sh
# From a table and a folder of pictures to a report and a page. Every step says what it did and what comes next.
# Usage: examples/quickstart.sh products.csv pictures/        (pictures may be a zip)
set -eu
table=$1; pictures=$2; bin=${VENV:-.venv}/bin

"$bin"/moontide data import table "$table" --images "$pictures" --dry-run             # how the first rows would land
"$bin"/moontide data import table "$table" --images "$pictures" --to data/catalog
"$bin"/moontide data check data/catalog --sheet data/sheet.png                       # defects, duplicates, leakage
"$bin"/moontide market open --dataset data/catalog --to data/market                  # no click log yet? simulate one
"$bin"/moontide run tiny --dataset data/market --to runs/own                         # vectors, click models, A/B, report
"$bin"/moontide serve runs/own                                                       # the page
