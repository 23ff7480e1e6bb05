"""``fairseq-prune kernels``: how inference computes on this processor, and the measurement that it follows from."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import Any, Optional

from fairseq_prune.modules import kernels


def main(name: str, arguments: list[str]) -> int:
    """Print what is used here; returns the exit status."""
    parser = argparse.ArgumentParser(prog=name, description=__doc__.partition(": ")[2])
    parser.add_argument("--again", action="store_true", help="measure again, for a second")
    parser.add_argument(
        "--threads", type=int, help="of the CPU, which the choice depends on (default: torch's)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(arguments)
    if args.threads is not None and args.threads < 1:
        parser.error(f"argument --threads: found {args.threads}, expected at least 1")
    try:
        found = describe(args.again, args.threads)
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    print(json.dumps(found) if args.json else "\n".join(_lines(found)))
    return 0


def describe(again: bool = False, threads: Optional[int] = None) -> dict[str, Any]:
    """The machine, what is used on it, and the milliseconds of each way, as JSON can have it.

    Raises:
        ValueError: FAIRSEQ_PRUNE_KERNELS is none of its settings.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    setting = os.environ.get(kernels.VARIABLE) or "measure"
    used = kernels.kernels_for(setting)
    found: dict[str, Any] = {"machine": kernels.machine(), "setting": setting}
    if kernels.HAS_ONEDNN_PRODUCTS:
        measured = kernels.measurement(again=again)
        used = measured.kernels if setting == "measure" else used
        found["milliseconds"] = {
            what: {way: round(1e3 * seconds, 3) for way, seconds in ways.items()}
            for what, ways in measured.seconds.items()
        }
        found["kept in"] = str(kernels.cache_folder() / "kernels.json")
    return {**found, "used": "torch's own functions" if used is None else asdict(used)}


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [found["machine"], f"setting: {found['setting']} ({kernels.VARIABLE})"]
    used = found["used"]
    for what, ways in {} if isinstance(used, str) else used.items():
        rows = [ways] if isinstance(ways, str) else [f"{way} from {frames} frames on" for frames, way in ways]
        lines.append(f"{what}: {', '.join(rows)}")
    if isinstance(used, str):
        lines.append(f"used: {used}")
    measured = found.get("milliseconds", {})
    if measured:
        lines.append("milliseconds:")
    for what, ways in measured.items():
        lines.append(f"  {what}: " + ", ".join(f"{way} {value:g}" for way, value in ways.items()))
    return lines + [f"kept in: {found['kept in']}"] * ("kept in" in found)
