"""A foreign Whisper as a whole checkpoint of this package: weights, tokenizer and options together."""

from pathlib import Path
from typing import Any, Optional

from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.whisper.importing import import_whisper
from fairseq_prune.checkpoints.whisper.own import TASK, WhisperCheckpoint
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.openai import read_ranks

MULTILINGUAL_END = (
    50257  # id of the end of text in the multilingual tokenizers; in the English one it is 50256
)


def is_foreign(path) -> bool:
    """Whether a path is a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: a file that is no checkpoint.
    """
    return Path(path).is_dir() or _is_openai(load_checkpoint_file(path, mmap=True))


def _is_openai(content: dict) -> bool:
    return {"dims", "model_state_dict"} <= set(content)


def import_whole(
    source, tokenizer=None, language: Optional[str] = None, spoken_task: str = "transcribe"
) -> tuple[WhisperCheckpoint, ByteLevelBPE, dict[str, Any]]:
    """Read a folder of Hugging Face or CTranslate2, or a `.pt` of OpenAI.

    Args:
        source: path.
        tokenizer: tokenizer.json, OpenAI's .tiktoken, or a folder with the first; None: that of the source.
        language: of the speech, for a multilingual model; None: English.
        spoken_task: what a multilingual model writes: that language ("transcribe"), or English ("translate").

    Returns:
        the checkpoint; its tokenizer; what the source says of itself, as of `import_whisper`, "multilingual" known.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no Whisper; a tokenizer of another one, or without that language.
    """
    checkpoint, says = import_whisper(source)
    found = read_tokenizer(tokenizer, Path(source), checkpoint.rows)
    checkpoint.require_symbols(found.dictionary.symbols, found.name)
    checkpoint.tokenizer = found.to_json()
    if says["multilingual"] is None:
        says["multilingual"] = found.dictionary.eos() >= MULTILINGUAL_END
    if not says["multilingual"] and (language or "en") != "en":
        raise ValueError(f"{source}: language {language!r}: the model knows English alone")
    spoken = (language or "en") if says["multilingual"] else None
    found.prefix(spoken, spoken_task)  # raises where there is no such language
    suppress = "none" if says["suppressed"] == [] else "non_speech"
    checkpoint.task = {"language": spoken, "spoken_task": spoken_task, "suppress_tokens": suppress}
    return checkpoint, found, says


def read_tokenizer(path: Optional[Path], source: Path, rows: int) -> ByteLevelBPE:
    """The tokenizer of a path, or of the source's folder, for an embedding of so many rows."""
    if path is None and not source.is_dir():
        raise ValueError(
            f"{source}: holds no tokenizer, give --tokenizer: tokenizer.json, or OpenAI's gpt2.tiktoken"
        )
    path = Path(path or source)
    return read_ranks(path, rows) if path.suffix == ".tiktoken" else ByteLevelBPE.load(path).for_rows(rows)


def is_whisper(path) -> bool:
    """Whether a path is a Whisper: a foreign one, or a checkpoint of its task here; errors as of `is_foreign`."""
    if Path(path).is_dir():
        return True
    content = load_checkpoint_file(path, mmap=True)
    task = (content.get("cfg") or {}).get("task")
    return _is_openai(content) or getattr(task, "get", {}.get)("_name") == TASK
