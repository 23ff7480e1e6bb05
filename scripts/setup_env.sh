#!/usr/bin/env bash
# Makes a virtual environment and installs fairseq_prune with all that it needs; quick when nothing changed.
#   bash scripts/setup_env.sh                    # current stack, .venv
#   PYTHON=python3.10 bash scripts/setup_env.sh  # legacy stack, .venv-legacy
# Source scripts/env.sh instead to have the environment made and activated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env_names.sh

stamp="$VENV/.installed"
want="$(cat setup.py pyproject.toml scripts/setup_env.sh scripts/env_names.sh | sha256sum | cut -d' ' -f1) $PYTHON_VERSION"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    exit 0
fi

say() { echo "[setup] $*" >&2; }
requirement() { sed -n "s/.*f\"\($1[=<>][^;]*\); {$STACK}.*\".*/\1/p" setup.py | head -n 1; }

say "Python $PYTHON_VERSION ($PYTHON_EXE), $STACK stack, into $VENV (several GB; a few minutes the first time)"
[ -x "$VENV/bin/python" ] || "$PYTHON_EXE" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@" --quiet; }

if [ "$STACK" = LEGACY ]; then
    # omegaconf 2.0.6 has metadata that newer pips refuse; fairseq 0.12.2 builds only with isolation
    pip install "pip<24.1" "setuptools<70" wheel
    say "torch, torchaudio, numpy"
    pip install "$(requirement torch)" "$(requirement torchaudio)" "$(requirement numpy)"
    say "fairseq (compiled here)"
    pip install "$(requirement fairseq)"
else
    say "torch, torchaudio, numpy"
    pip install "setuptools>=65,<81" wheel cython "$(requirement torch)" "$(requirement torchaudio)" "$(requirement numpy)"
    # with build isolation pip would fetch a second torch only to compile fairseq
    say "fairseq (compiled here, under 3 minutes)"
    pip install --no-build-isolation "$(requirement fairseq-fixed)"
fi
say "fairseq_prune and the rest"
pip install --no-build-isolation -e ".[test]"
echo "$want" > "$stamp"
say "done: source $VENV/bin/activate"
