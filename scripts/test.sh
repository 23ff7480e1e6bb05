#!/usr/bin/env bash
# Lints and tests. Arguments go to pytest:
#   bash scripts/test.sh                     # everything but the slow tests
#   bash scripts/test.sh -m slow             # the slow ones: real sizes, up to 20 GiB
#   PYTHON=python3.10 bash scripts/test.sh   # on the legacy stack
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh

ruff check .
ruff format --check .

# one worker a core with one thread each; the slow tests one after the other, for their memory
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
case " $* " in
    *" slow "*) workers=0 ;;
    *) workers=2 ;;
esac
python -m pytest -n "$workers" --dist worksteal "$@"
