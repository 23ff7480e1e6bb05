"""The model card of an export, a README.md as the Hugging Face Hub has it: a yaml header, and tables of what is known.

What can be measured on the model and its files is measured here; figures on data come from a file of results alone.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import yaml
from torch import nn

from fairseq_prune.checkpoints.huggingface_folder import read_json
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.modules.frames import DropsFrames
from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS

CARD = "README.md"
SECONDS = 10  # of the utterance whose MACs are counted
MEL_RATE = 100  # frames of a log-mel spectrogram in a second
LIBRARIES = {
    "hf": "transformers",
    "ctranslate2": "ctranslate2",
    "onnx": "onnx",
}  # of formats; others: torchaudio
TASKS = {  # the Hub's names
    "speech_translation": "translation",
    "audio_finetuning": "automatic-speech-recognition",
    "spoken_language_understanding": "automatic-speech-recognition",
}
SPOKEN = ("language", "source_lang", "target_lang")
CHUNK = 1 << 20


def card_path(out: Path) -> Path:
    """Of an export: within a folder, beside a file."""
    return out / CARD if out.is_dir() else out.with_name(f"{out.name}.md")


def read_results(path: Optional[Path]) -> dict[str, Any]:
    """Measured figures {name: value}, of a JSON file such as report.json of scripts/transcribe.py.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object.
    """
    return {} if path is None else read_json(path, "file of results")


def write_card(
    out: Path,
    model: nn.Module,
    cfg: Any,
    checkpoint: Path,
    export_format: str,
    int8: bool = False,
    results: Optional[Mapping[str, Any]] = None,
    results_file: Optional[Path] = None,
) -> Path:
    """Write the card of an export.

    Args:
        out: file or folder, complete.
        model: that was written.
        cfg: configuration of the checkpoint, with its sections model, task and common.
        checkpoint: that the model comes from.
        results: measured figures, as of `read_results`, of ``results_file``.

    Returns:
        where it is.
    """
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]
    hashes = {
        str(path.relative_to(out) if out.is_dir() else path.name): [path.stat().st_size, sha256(path)]
        for path in files
    }
    parts = [
        "---",
        yaml.safe_dump(header(model, cfg, export_format), sort_keys=False).rstrip(),
        "---",
        f"# {out.name}",
        "",
        f"A model `{cfg.model._name}`, made by fairseq_prune: `export --format {export_format}"
        f"{' --int8' if int8 else ''}` of `{checkpoint.name}` (SHA-256 `{sha256(checkpoint)}`).",
        "",
        *table("Model", ["", ""], {name: [value] for name, value in facts(model).items()}),
        *table("Files", ["file", "bytes", "SHA-256"], hashes),
    ]
    if results:
        parts += table(
            f"Results, as measured in `{results_file.name}`",
            ["", ""],
            {name: [value] for name, value in flat(results).items()},
        )
    else:
        parts += ["No results on data came with this export.", ""]
    path = card_path(out)
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def header(model: nn.Module, cfg: Any, export_format: str) -> dict[str, Any]:
    """The card's metadata."""
    said = cfg.get("task") or {}  # a DictConfig of the legacy stack raises at names that it lacks
    task = {name: said[name] for name in (*SPOKEN, "_name") if name in said}
    pruned = dropper(model)
    languages = sorted({str(task[name]) for name in SPOKEN if task.get(name)})
    tags = ["speech", "pruning", *(["token-pruning"] if pruned and not pruned.pruning.keeps_all else [])]
    return {
        **({"language": languages} if languages else {}),
        "library_name": LIBRARIES.get(export_format, "torchaudio"),
        "pipeline_tag": TASKS.get(str(task.get("_name")), "feature-extraction"),
        "tags": tags,
    }


def facts(model: nn.Module) -> dict[str, Any]:
    """What a model is: {name: value}, sizes and shares of its weights, frames and arithmetic."""
    model = getattr(model, "student", model)  # of distillation
    weights, pruned = dict(model.named_parameters()), dropper(model)
    layers = [value for name, value in weights.items() if re.fullmatch(TRANSFORMER_LAYERS, name)]
    found = {
        "parameters": count(weights.values()),
        **{f"parameters of the {name}": count(part.parameters()) for name, part in model.named_children()},
        "zeros among the weights": zeros(weights.values()),
        "zeros in the matrices of layers": zeros(layers),
    }
    if pruned is not None:
        ratios = [pruned.keep_ratio(index) for index in range(len(pruned.pruning.keep_ratios))]
        found["frames that each layer keeps"] = ", ".join(f"{ratio:g}" for ratio in ratios)
        if not pruned.pruning.keeps_all:
            found["criterion of frames"] = pruned.pruning.criterion
        length, rate = SECONDS * SAMPLE_RATE, SAMPLE_RATE
        if hasattr(pruned, "audio_context"):  # a Whisper, which may hear less
            length, rate = min(SECONDS * MEL_RATE, pruned.max_positions()), MEL_RATE
        found[f"MACs of the encoder, {length / rate:g} s"] = pruned.macs(length)["total"]
    return found


def dropper(model: nn.Module) -> Optional[DropsFrames]:
    """The encoder within a model that can drop frames, or None."""
    return next((module for module in model.modules() if isinstance(module, DropsFrames)), None)


def count(weights) -> int:
    """Of parameters, those within them."""
    return sum(weight.numel() for weight in weights)


def zeros(weights) -> float:
    """The share of weights that are 0."""
    weights = list(weights)
    return round(sum(int((weight == 0).sum()) for weight in weights) / max(1, count(weights)), 4)


def sha256(path: Path) -> str:
    """Of a file's content."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Objects within objects as one: {"a": {"b": 1}} -> {"a b": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name} "))
        else:
            found[f"{prefix}{name}"] = value
    return found


def table(title: str, heads: list[str], rows: Mapping[str, list[Any]]) -> list[str]:
    """Lines of markdown."""
    shown = [[name, *(f"{v:,}" if isinstance(v, int) else str(v) for v in row)] for name, row in rows.items()]
    lines = [heads, ["---"] * len(heads), *shown]
    return [
        f"## {title}",
        "",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines),
        "",
    ]
