"""A Whisper from any of the places that it may lie in, ready to run."""

from typing import Any, Optional

from fairseq.dataclass.utils import overwrite_args_by_name
from omegaconf import OmegaConf

from fairseq_prune import compat
from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.previews import preview_of
from fairseq_prune.checkpoints.whisper.foreign import import_whole, is_foreign
from fairseq_prune.checkpoints.whisper.own import TASK
from fairseq_prune.inference.base import Pipeline
from fairseq_prune.inference.whisper.rules import languages_of
from fairseq_prune.models.options import with_younger_options
from fairseq_prune.modules.previewed_output import OutputPreview
from fairseq_prune.modules.whisper.generation import suppressed_tokens


class WhisperPipeline(Pipeline):
    """A Whisper: a checkpoint of this package, a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.

    Args:
        source: path of one of these.
        overrides, device, half: as of `Pipeline`.
        tokenizer: tokenizer.json or OpenAI's .tiktoken, for a source that holds none.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is no Whisper, or of another task; an override or the device cannot be used.
    """

    task_name = TASK

    def __init__(
        self,
        source,
        overrides: Optional[dict[str, Any]] = None,
        device: str = "cpu",
        half: bool = False,
        tokenizer=None,
    ):
        self._tokenizer_file = tokenizer
        self.alignment_heads: Optional[tuple[tuple[int, int], ...]] = None
        self.preview: Optional[OutputPreview] = None  # of the decoder's output
        super().__init__(str(source), overrides, device, half)
        self.source, self.tokenizer = str(source), self.task.tokenizer
        self.multilingual, self.mel_bins = self.task.cfg.language is not None, self.task.cfg.mel_bins
        never: tuple[list[int], list[int]] = ([], [])
        if str(self.task.cfg.suppress_tokens) != "none":
            never = suppressed_tokens(self.tokenizer)
        self.never, self.never_first = never  # ids that no place of a text may have, and not the first

    def read(self, checkpoint: str, overrides: Optional[dict[str, Any]]) -> dict[str, Any]:
        """The content of a checkpoint; what comes from elsewhere is imported in memory."""
        if not is_foreign(checkpoint):
            state = load_fairseq_state(checkpoint, overrides)
            self.preview = preview_of(state, checkpoint)
            return state
        imported, _, says = import_whole(checkpoint, self._tokenizer_file)
        if says.get("alignment_heads"):
            self.alignment_heads = tuple((layer, head) for layer, head in says["alignment_heads"])
        state = with_younger_options(imported.to_fairseq())  # so that all options can be overridden
        state["cfg"] = OmegaConf.create(state["cfg"])
        compat.refuse_unknown_overrides(checkpoint, state["cfg"], overrides)
        overwrite_args_by_name(state["cfg"], overrides or {})
        return state

    def require(self, language: Optional[str], task: str) -> None:
        """Raise ValueError where this model has not the language, or cannot translate."""
        if not self.multilingual:
            if task == "translate":
                raise ValueError(f"{self.source}: an English-only model, which cannot translate")
            if language not in (None, "en"):
                raise ValueError(f"{self.source}: an English-only model, found language {language!r}")
            return
        known = languages_of(self.tokenizer)
        if language is not None and language not in known:
            raise ValueError(
                f"{self.source}: no language {language!r}, expected one of the {len(known)} that it has, such as "
                f"{', '.join(list(known)[:8])}"
            )
