# Source this from another script: makes the environment if it is missing or out of date, and activates it.
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$repo/scripts/setup_env.sh"
source <(cd "$repo" && source scripts/env_names.sh && echo "VENV=$VENV")
source "$repo/$VENV/bin/activate"
