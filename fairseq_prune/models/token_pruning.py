"""Token pruning as a part of any fairseq model: its options, and the plan for an encoder that they ask for.

The encoder is one that `modules.frames.DropsFrames` is mixed into; fairseq tells it the number of updates, which the
warm-up follows.
"""

from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_prune.models.options import option
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.pruning.criteria import CRITERIA
from fairseq_prune.pruning.schedules import SCHEDULES, layer_keep_ratios


@dataclass
class TokenPruningConfig(FairseqDataclass):
    token_keep_ratio: float = option(
        1.0, "share of its frames that each pruning layer keeps; 1.0: no pruning"
    )
    token_keep_start_layer: int = option(1, "first layer that prunes; layers count from 1")
    token_keep_schedule: ChoiceEnum(SCHEDULES) = option("constant", "how the ratio changes over the layers")
    token_keep_final_ratio: Optional[float] = option(
        None, "ratio of the last layer (linear and cosine schedules)"
    )
    token_keep_ratios: Optional[str] = option(
        None, "ratio of every layer, separated by commas; overrides the options above"
    )
    token_keep_min: int = option(1, "frames that an utterance keeps at least")
    token_keep_warmup_updates: int = option(
        0, "training updates over which the ratios fall from 1.0 to their values"
    )
    token_keep_criterion: ChoiceEnum(list(CRITERIA)) = option(
        "received", "what makes a frame important; 'merge' averages similar frames instead of dropping any"
    )


def token_pruning(cfg: TokenPruningConfig, num_layers: int) -> TokenPruning:
    """The plan for an encoder of so many layers.

    Raises:
        ValueError: a ratio outside (0, 1], a layer or list that does not fit, options that contradict each other, an
            unknown criterion, merging below half.
    """
    if cfg.token_keep_ratios and cfg.token_keep_ratio != 1.0:
        raise ValueError(
            f"--token-keep-ratios: found beside --token-keep-ratio {cfg.token_keep_ratio}, expected one of the two"
        )
    if cfg.token_keep_final_ratio is not None and str(cfg.token_keep_schedule) == "constant":
        raise ValueError(
            f"--token-keep-final-ratio: found {cfg.token_keep_final_ratio} with a constant schedule,"
            " expected --token-keep-schedule linear or cosine"
        )
    explicit = None
    if cfg.token_keep_ratios:
        try:
            explicit = [float(ratio) for ratio in cfg.token_keep_ratios.split(",")]
        except ValueError as error:
            raise ValueError(
                f"--token-keep-ratios: found {cfg.token_keep_ratios!r}, expected numbers separated by commas"
            ) from error
    ratios = layer_keep_ratios(
        num_layers,
        cfg.token_keep_ratio,
        cfg.token_keep_start_layer,
        str(cfg.token_keep_schedule),
        cfg.token_keep_final_ratio,
        explicit,
    )
    return TokenPruning(
        ratios, str(cfg.token_keep_criterion), cfg.token_keep_min, cfg.token_keep_warmup_updates
    )
