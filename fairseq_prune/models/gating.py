"""What models with gates share: the option that says what gets some, and what fairseq's trainer may not do to them."""

from typing import Any

CHECK_INTERVAL = 200  # updates between checks that something is left, for which the host waits for the device


def parse_gating(text: str, gating: type) -> Any:
    """The gates that ``prune`` asks for, as a ``gating``; None for no gates.

    Raises:
        ValueError: an unknown kind, one that stands there twice, or a drop probability that is none.
    """
    if text.strip() in ("", "none"):
        return None
    kinds, drops = list(gating.__dataclass_fields__), {}
    for item in map(str.strip, text.split(",")):
        kind, equals, drop = item.partition("=")
        if kind not in kinds:
            raise ValueError(f"--prune: found {kind!r}, expected none, or some of {', '.join(kinds)}")
        if kind in drops:
            raise ValueError(f"--prune: found {kind} twice in {text!r}")
        try:
            drops[kind] = float(drop) if equals else getattr(gating, kind)
        except ValueError:
            drops[kind] = 0.0
        if not 0 < drops[kind] < 1:
            raise ValueError(f"--prune: found {item!r}, expected a drop probability between 0 and 1 after =")
    return gating(**{**dict.fromkeys(kinds), **drops})


def refuse_half_gradients(cfg) -> None:
    """Raise ValueError where fairseq's whole configuration would send gradients of gates in half precision."""
    common, distributed = cfg.common, cfg.distributed_training
    half = "fp16" if common.fp16 else "bf16" if common.bf16 else None
    legacy = distributed.ddp_backend in ("legacy_ddp", "no_c10d")
    if half and legacy and distributed.distributed_world_size > 1:
        raise ValueError(
            f"--ddp-backend: found {distributed.ddp_backend} with --{half} and gates, whose float32 gradients it would"
            " send in half precision; expected pytorch_ddp"
        )
