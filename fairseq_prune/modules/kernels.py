"""Which of the ways of `modules.onednn` is fastest on this processor: measured once, and kept in the user's cache.

Processors differ: MKL's products take twice oneDNN's time on one, and less than it on another. What is chosen changes
results within rounding, and stays the same from run to run. FAIRSEQ_PRUNE_KERNELS fixes it. Training does not follow
it.
"""

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS, onednn_has_bfloat16
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.files import complete
from fairseq_prune.modules import onednn
from fairseq_prune.modules.hubert.convolution import extract_conv_features
from fairseq_prune.modules.onednn import VARIABLE, Kernels

logger = logging.getLogger(__name__)

SETTINGS = ("measure", "onednn", "torch")
VERSION = 2  # of what is compared; what another version has kept is measured again
# another way has to be so much faster than the usual one, or noise would change results from one run to another
MARGIN = 1.03
# HuBERT base's sizes, 3 s of audio; the order is the same at other widths
DIM, UNITS, HEADS, ROWS = 768, 3072, 12, 150
EXTRACTOR = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
FRAMES = (50, 100, 200, 300, 500)  # lengths at which attention is compared
AT_ONCE = 200  # frames; above them all heads at once is never the fastest
BUDGET, ROUNDS = 0.06, (3, 10)  # seconds for a comparison, and how many rounds it takes at least and at most
# these limit the instructions that the libraries use, and so are part of what a processor is
LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")

Seconds = Mapping[str, Mapping[str, float]]  # of one call: {what is computed: {way: seconds}}


@dataclass(frozen=True)
class Measured:
    """seconds: of each way. took: seconds of the whole measurement."""

    seconds: Seconds
    took: float

    @property
    def kernels(self) -> Kernels:
        """The fastest."""
        return fastest(self.seconds)


def choose(setting: Optional[str] = None) -> Optional[Kernels]:
    """Use what is fastest here from now on (`onednn.use`), and return it; args and errors as of `kernels_for`."""
    kernels = kernels_for(setting)
    onednn.use(kernels)
    return kernels


def kernels_for(
    setting: Optional[str] = None, measure: Optional[Callable[[], Measured]] = None
) -> Optional[Kernels]:
    """What is to be used on this machine.

    Args:
        setting: "measure" takes what is kept of an earlier measurement, or else measures, for about a second;
            "onednn" is the same everywhere; "torch" is None, torch's own functions. By default what
            FAIRSEQ_PRUNE_KERNELS says, or else "measure".
        measure: by default this module's.

    Raises:
        ValueError: the setting is none of these.
    """
    setting = setting or os.environ.get(VARIABLE) or "measure"
    if setting not in SETTINGS:
        raise ValueError(f"{VARIABLE}: found {setting!r}, expected one of {', '.join(SETTINGS)}")
    if setting == "torch":
        return None
    return measurement(measure).kernels if setting == "measure" and HAS_ONEDNN_PRODUCTS else Kernels()


def measurement(measure: Optional[Callable[[], Measured]] = None, again: bool = False) -> Measured:
    """What is kept for this machine, or else, or ``again``, a new measurement, which is then kept."""
    path, key = cache_folder() / "kernels.json", machine()
    kept = read(path)
    if key in kept and not again:
        return kept[key]
    new = (measure or measure_all)()
    rows = {
        name: {"version": VERSION, "took": row.took, "seconds": row.seconds}
        for name, row in {**kept, key: new}.items()
    }
    try:
        with complete(path, overwrite=True) as aside:
            aside.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        logger.info(f"kernels measured in {new.took:.1f} s, kept in {path}: {new.kernels}")
    except OSError as error:  # such as a home that is read-only
        logger.info(f"kernels measured in {new.took:.1f} s, not kept ({error}): {new.kernels}")
    return new


def read(path: Path) -> dict[str, Measured]:
    """The measurements of a file, {machine: ...}, without those that are damaged or of another version."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for key, row in rows.items() if isinstance(rows, dict) else ():
        try:
            if row["version"] == VERSION:
                kept = Measured(row["seconds"], float(row["took"]))
                fastest(kept.seconds)
                found[key] = kept
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return found


def fastest(seconds: Seconds) -> Kernels:
    """The ways of the least seconds; the usual one unless another is 3 % faster.

    Raises:
        KeyError: something that is to be compared is not there.
    """
    usual = Kernels()

    def by_length(what: str, scored: bool) -> tuple[tuple[int, str], ...]:
        rows: list[tuple[int, str]] = []
        for frames in FRAMES:
            way = _best(usual.attention_for(frames, scored), seconds[f"{what} {frames}"])
            if not rows or way != rows[-1][1]:
                rows.append((frames if rows else 0, way))
        return tuple(rows)

    return Kernels(
        _best(usual.products, seconds["products"]),
        _best(usual.convolutions, seconds["convolutions"]),
        by_length("attention", False),
        by_length("scored", True),
    )


def _best(usual: str, ways: Mapping[str, float]) -> str:
    first = min((way for way in ways if way != "bfloat16"), key=ways.__getitem__)
    return first if ways[first] * MARGIN < ways[usual] else usual


def measure_all(now: Optional[Callable[[], float]] = None) -> Measured:
    """Time all ways, those of a comparison in turns.

    Args:
        now: a clock.
    """
    now = now or _clock()
    start, seconds = now(), {}
    with torch.inference_mode(), torch.random.fork_rng(devices=[]), onednn.using(Kernels()):
        seconds["products"] = _time(_products(ROWS), now)
        products = _best(Kernels().products, seconds["products"])  # which the others use
        seconds["convolutions"] = _time(_convolutions(), now)
        for frames in FRAMES:
            for what, scored in (("attention", False), ("scored", True)):
                seconds[f"{what} {frames}"] = _time(_attention(products, frames, scored), now)
    return Measured(seconds, now() - start)


def peaks(rows: int = 1024) -> dict[str, float]:
    """GFLOP/s of this processor in large products, by way; "bfloat16" is oneDNN's, where it multiplies in that."""
    if not HAS_ONEDNN_PRODUCTS:
        return {}
    with torch.inference_mode(), torch.random.fork_rng(devices=[]), onednn.using(Kernels()):
        seconds = _time(_products(rows), _clock())
    return {way: 4e-9 * rows * DIM * UNITS / value for way, value in seconds.items()}


def _clock() -> Callable[[], float]:
    """Of processor time where there is one thread, so that other programs do not disturb it; else wall-clock."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _time(ways: Mapping[str, Callable[[], object]], now: Callable[[], float]) -> dict[str, float]:
    """The least seconds of each, after a round that is not counted."""
    for call in ways.values():
        call()
    found = dict.fromkeys(ways, float("inf"))
    begin = now()
    for turn in range(ROUNDS[1]):
        for way, call in ways.items():
            start = now()
            call()
            found[way] = min(found[way], now() - start)
        if turn + 1 >= ROUNDS[0] and now() - begin > BUDGET:
            break
    return found


def _with(kernels: Kernels, function: Callable, *args) -> Callable[[], object]:
    def call() -> object:
        with onednn.using(kernels):
            return function(*args)

    return call


def _products(rows: int) -> dict[str, Callable[[], object]]:
    """A feed-forward block by each way, and by oneDNN in bfloat16."""
    x, inner, outer = torch.randn(rows, DIM), torch.randn(UNITS, DIM), torch.randn(DIM, UNITS)

    def block(x, inner, outer):
        return onednn.product(onednn.product(x, inner), outer)

    ways = {way: _with(Kernels(way), block, x, inner, outer) for way in ("onednn", "torch")}
    if onednn_has_bfloat16():
        halves = (tensor.bfloat16() for tensor in (x, inner, outer))
        ways["bfloat16"] = _with(Kernels("onednn"), block, *halves)
    return ways


def _convolutions() -> dict[str, Callable[[], object]]:
    """HuBERT base's extractor on a second of noise: its first layers have most of the work, its last ones do not."""
    layers = ConvFeatureExtractionModel(EXTRACTOR, mode="default").eval().conv_layers
    onednn.channels_last_(layers)  # as for inference
    waveform = torch.randn(1, SAMPLE_RATE)
    return {
        way: _with(Kernels(convolutions=way), extract_conv_features, layers, waveform, None)
        for way in ("onednn", "torch")
    }


def _attention(products: str, frames: int, scored: bool) -> dict[str, Callable[[], object]]:
    states = [torch.randn(1, frames, HEADS, DIM // HEADS) for _ in range(3)]
    names = ["torch", "by_head", *(["at_once"] if scored and frames <= AT_ONCE else [])]
    return {
        way: _with(
            Kernels(products, attention=((0, way),), scored=((0, way),)),
            onednn.attention,
            *states,
            [frames],
            None,
            scored,
        )
        for way in names
    }


def machine() -> str:
    """What a measurement holds for: processor, instruction set, threads, torch."""
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    threads = torch.get_num_threads()
    parts = [processor(), instructions(), *limits, f"{threads} thread{'s' * (threads > 1)}"]
    return ", ".join([*parts, f"torch {torch.__version__}"])


def processor() -> str:
    """Its name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def instructions() -> str:
    """The widest vector instructions that torch uses: AVX2, AVX512, ..."""
    cpu = getattr(torch.backends, "cpu", None)  # not in torch 2.0
    return "unknown instructions" if cpu is None else cpu.get_cpu_capability()


def cache_folder() -> Path:
    """Where this package keeps what it can make again, by the platform's rule."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fairseq_prune" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fairseq_prune"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fairseq_prune"
