"""Our checkpoints of the model `whisper`: what scripts/import_whisper.py writes and --whisper-path reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.modules.whisper.settings import WhisperSettings

TASK = "spoken_language_understanding"
SIZES = (
    "embed_dim ffn_embed_dim attention_heads encoder_layers decoder_layers mel_bins max_source_positions"
    " max_target_positions"
).split()


@dataclass
class WhisperCheckpoint:
    """A Whisper without the code that it came with.

    Args:
        path: where it comes from, for errors.
        sizes: those options of `modules.whisper.WhisperSettings` that the shapes of weights follow from.
        state_dict: under the names of our modules, "encoder.layers.0.fc1.weight".
        tokenizer: content of tokenizer.json; None where the source has none.
        task: options of the task, such as {"language": "en"}.
        pruning: options of the model that say which frames are dropped (`models.token_pruning`).
    """

    path: str
    sizes: dict[str, Union[int, str]]
    state_dict: dict[str, Tensor]
    tokenizer: Optional[str] = None
    task: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Tokens that have an embedding."""
        return len(self.state_dict["decoder.embed_tokens.weight"])

    def require_symbols(self, symbols: Sequence[str], name: str = "the tokenizer") -> None:
        """Raise ValueError unless a tokenizer with these symbols is as large as the embedding."""
        if self.rows != len(symbols):
            raise ValueError(
                f"{self.path}: has embeddings of {self.rows:,} tokens, but {name} has {len(symbols):,} tokens"
            )

    def to_fairseq(self) -> dict[str, Any]:
        """What fairseq's programs load, and `read_whisper`."""
        cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig), resolve=True, enum_to_str=True)
        options = OmegaConf.to_container(OmegaConf.structured(WhisperSettings), enum_to_str=True)
        cfg["model"] = {**options, **self.sizes, **self.pruning, "_name": "whisper"}
        cfg["task"] = {"_name": TASK, "mel_bins": self.sizes["mel_bins"], **self.task}
        return {
            "args": None,
            "cfg": cfg,
            "model": self.state_dict,
            "task_state": {"tokenizer": self.tokenizer},
            "optimizer_history": [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": 0}],
            "last_optimizer_state": None,
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        }


def read_whisper(path) -> WhisperCheckpoint:
    """Read a checkpoint of a model of ours whose name begins with whisper.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or of another model.
    """
    checkpoint = load_checkpoint_file(path)
    cfg = checkpoint.get("cfg") or {}
    model, task = cfg.get("model") or {}, dict(cfg.get("task") or {})
    tokenizer = (checkpoint.get("task_state") or {}).get("tokenizer")
    name = getattr(model, "get", {}.get)("_name")
    if not str(name).startswith("whisper") or tokenizer is None:
        raise ValueError(
            f"{path}: expected a checkpoint of a model whisper (scripts/import_whisper.py), found model {name!r}"
        )
    sizes = {size: model[size] for size in SIZES}
    # heads were cut out, or layers left uneven
    sizes.update({size: model[size] for size in ("head_dim", "layer_sizes") if model.get(size)})
    return WhisperCheckpoint(str(path), sizes, checkpoint["model"], tokenizer, task)
