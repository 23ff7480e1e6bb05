# Sourced by setup_env.sh and env.sh: which Python, which stack, which virtual environment.
PYTHON_EXE="${PYTHON:-}"
if [ -z "$PYTHON_EXE" ]; then
    for candidate in python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            PYTHON_EXE="$candidate"
            break
        fi
    done
fi
python_version() { "${PYTHON_EXE:-false}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
PYTHON_VERSION="$(python_version)"
if [ -z "$PYTHON_VERSION" ] && command -v pyenv >/dev/null; then
    # pyenv's python3.10 answers only while its version is switched on
    export PYENV_VERSION="$(pyenv versions --bare | paste -sd:)"
    PYTHON_VERSION="$(python_version)"
fi
case "$PYTHON_VERSION" in
    3.11 | 3.12) STACK=CURRENT VENV="${VENV:-.venv}" ;;
    3.9 | 3.10) STACK=LEGACY VENV="${VENV:-.venv-legacy}" ;;
    *)
        echo "error: needs Python 3.11 or 3.12 (current stack) or 3.9 or 3.10 (legacy stack)," \
            "found '${PYTHON_VERSION:-none}' for PYTHON='${PYTHON:-}'" >&2
        exit 2
        ;;
esac
