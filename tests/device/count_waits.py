"""Prints how often the host waits for a GPU, by model, as a Markdown table: `python tests/device/count_waits.py`.

The GPU is pretended (`pretend.py`). Encoders and decoders have 12 layers, so that a wait in each layer shows.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from pretended_models import MODELS, decoding, passing, pruning  # noqa: E402

LAYERS = 12
DECODERS = ("hubert_deltalm, received", "deltalm", "whisper, clip")
COLUMNS = ("what", "waits", "for what", "copies to the GPU without waiting")


def rows():
    """(what, {operation: waits}, copies to the GPU without waiting) of everything that is counted."""
    for name in MODELS:
        gpu = passing(name, layers=LAYERS)[0]
        yield f"{name}: forward pass and criterion", gpu.waits, gpu.sent
    for name in DECODERS:
        step, reordering = decoding(name, LAYERS)[-2:]
        yield f"{name}: step of decoding", step, ""
        yield f"{name}: reordering of its cache", reordering, ""
    for averaged in (False, True):
        *_, between, at_pruning = pruning(averaged=averaged, layers=LAYERS)
        ending = " with --store-ema" if averaged else ""
        yield f"PARP{ending}: update that prunes", at_pruning, ""
        yield f"PARP{ending}: update between", between, ""


def main():
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for what, waits, sent in rows():
        counts = {operation: count for operation, count in sorted(waits.items()) if count}
        kinds = ", ".join(f"{count} {operation}" for operation, count in counts.items())
        print(f"| {what} | {sum(counts.values())} | {kinds or '-'} | {sent} |", flush=True)


if __name__ == "__main__":
    main()
