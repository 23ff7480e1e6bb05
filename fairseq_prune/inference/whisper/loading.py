"""A Whisper from any of the places that it may lie in, ready to run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import OmegaConf

from fairseq_prune import compat
from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    load_fairseq_state,
    load_state_dict_strictly,
)
from fairseq_prune.checkpoints.whisper.importing import import_whisper
from fairseq_prune.checkpoints.whisper.own import TASK
from fairseq_prune.inference.base import usable_device
from fairseq_prune.inference.whisper.rules import languages_of
from fairseq_prune.modules.whisper.generation import suppressed_tokens
from fairseq_prune.tasks.spoken_language_understanding import SpokenLanguageUnderstandingTask
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.openai import read_ranks

MULTILINGUAL_END = 50257  # id of the end of text in the multilingual tokenizers; in the English one it is 50256


@dataclass
class LoadedWhisper:
    """A model in evaluation mode, with what is needed to write with it.

    never, never_first: ids that no place of a text, or not the first, may have. alignment_heads: (decoder layer, head)
    whose attention follows the speech; None where the source names none. multilingual: whether it knows languages.
    """

    model: torch.nn.Module
    tokenizer: ByteLevelBPE
    multilingual: bool
    mel_bins: int
    never: Sequence[int] = ()
    never_first: Sequence[int] = ()
    alignment_heads: Optional[tuple[tuple[int, int], ...]] = None

    def check(self, source, language: Optional[str], task: str) -> None:
        """Raise ValueError where this model has not the language, or cannot translate."""
        if not self.multilingual:
            if task == "translate":
                raise ValueError(f"{source}: an English-only model, which cannot translate")
            if language not in (None, "en"):
                raise ValueError(f"{source}: an English-only model: found --language {language}")
            return
        known = languages_of(self.tokenizer)
        if language is not None and language not in known:
            raise ValueError(
                f"{source}: no language {language!r}; expected one of the {len(known)} of its tokenizer, such as "
                f"{', '.join(list(known)[:8])}"
            )


def load_whisper(
    source,
    overrides: Optional[dict[str, Any]] = None,
    device: str = "cpu",
    half: bool = False,
    tokenizer=None,
) -> LoadedWhisper:
    """Read a checkpoint of this package, a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.

    Args:
        source: path.
        overrides: options of the checkpoint to change, such as ``{"audio_context": "clip+4"}``.
        device: where to run.
        half: float16, on GPUs.
        tokenizer: tokenizer.json or OpenAI's .tiktoken, for sources that hold none.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is no Whisper, or of another task; an override or the device cannot be used.
    """
    place = usable_device(device)
    if half and place.type == "cpu":
        raise ValueError("float16 needs a GPU, found device cpu")
    source = Path(source)
    heads = None
    if is_foreign(source):
        state, heads = _imported(source, tokenizer)
        compat.refuse_unknown_overrides(source, state["cfg"], overrides)
        overwrite_args_by_name(state["cfg"], overrides or {})
    else:
        state = load_fairseq_state(source, overrides)
    cfg = state["cfg"]
    if cfg.task._name != TASK:
        raise ValueError(f"{source}: a checkpoint of task {cfg.task._name}, expected a Whisper of task {TASK}")
    task = SpokenLanguageUnderstandingTask.from_state(cfg.task, state["task_state"])
    model = task.build_model(cfg.model, from_checkpoint=True)
    load_state_dict_strictly(model, state["model"], source)
    model.set_num_updates(state["optimizer_history"][-1]["num_updates"])
    model = model.eval().to(place)
    never: tuple[list[int], list[int]] = ([], [])
    if str(task.cfg.suppress_tokens) != "none":
        never = suppressed_tokens(task.tokenizer)
    multilingual = task.cfg.language is not None
    return LoadedWhisper(
        model.half() if half else model, task.tokenizer, multilingual, task.cfg.mel_bins, *never, heads
    )


def is_foreign(source: Path) -> bool:
    """Whether a path is a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI."""
    if source.is_dir():
        return True
    return {"dims", "model_state_dict"} <= set(load_checkpoint_file(source, mmap=True))


def _imported(source: Path, tokenizer) -> tuple[dict[str, Any], Optional[tuple]]:
    """What scripts/import_whisper.py would write, as it is loaded; and the heads that the source names."""
    checkpoint, says = import_whisper(source)
    found = read_tokenizer(tokenizer or source, checkpoint.rows)
    checkpoint.require_symbols(found.dictionary.symbols, found.name)
    checkpoint.tokenizer = found.to_json()
    multilingual = says["multilingual"]
    if multilingual is None:
        multilingual = found.dictionary.eos() >= MULTILINGUAL_END
    suppress = "none" if says["suppressed"] == [] else "non_speech"
    checkpoint.task = {"language": "en" if multilingual else None, "suppress_tokens": suppress}
    state = checkpoint.to_fairseq()
    state["cfg"] = OmegaConf.create(state["cfg"])
    heads = says.get("alignment_heads")
    return state, heads and tuple((layer, head) for layer, head in heads)


def read_tokenizer(path, rows: int) -> ByteLevelBPE:
    """The tokenizer for an embedding of so many rows: of a folder, a tokenizer.json, or OpenAI's .tiktoken.

    Raises:
        FileNotFoundError, ValueError: there is none.
    """
    path = Path(path)
    if path.is_file() and path.suffix not in (".json", ".tiktoken"):
        raise ValueError(
            f"{path}: holds no tokenizer, give --tokenizer: tokenizer.json, or OpenAI's gpt2.tiktoken"
        )
    if path.suffix == ".tiktoken":
        return read_ranks(path, rows)
    return ByteLevelBPE.load(path).for_rows(rows)
