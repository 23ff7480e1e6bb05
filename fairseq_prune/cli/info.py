"""``fairseq-prune info FILE``: what a checkpoint or a folder of transformers is, and what can be done with it."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAYER = re.compile(r"((?:.*\.)?(?:encoder|decoder))\.(?:transformer\.)?layers\.(\d+)\.")
# options of a model or task that say what it was made for, where they have a value
SAYS = ("source_lang", "target_lang", "language", "spoken_task", "audio_context", "labels", "fairseq_padding")
TOKENS = "token_keep_"
WEIGHTS = ("method", "phase", "sparsity", "update", "revived", "overlap")
# {task or model: what to do next}; {} is the file
NEXT = {
    "speech_translation": (
        "translate --checkpoint {} talk.wav",
        "prune-tokens sweep --checkpoint {} ...",
        "prune-tokens plan --checkpoint {} ...",
        "prune-vocab --checkpoint {} --text texts --out smaller",
        "export --checkpoint {} --format onnx --out folder",
    ),
    "spoken_language_understanding": (
        "understand --checkpoint {} command.wav",
        "prune-vocab --checkpoint {} --text texts --out smaller",
        "prune-layers --checkpoint {} ...",
        "export --checkpoint {} --format onnx --out folder",
    ),
    "audio_finetuning": (
        "transcribe --checkpoint {} speech.wav",
        "prune-weights finalize {} --out recogniser.pt",
        "export --checkpoint {} --format onnx --out folder",
    ),
    "dphubert": ("distil compress --checkpoint {} --out small.pt",),
    "gated_whisper": (
        "transcribe --checkpoint {} talk.wav",
        "distil compress-whisper --checkpoint {} --out small.pt",
    ),
    "encoder": ("export --checkpoint {} --format hf --out folder", "features --checkpoint {} ...", "bench"),
    "hubert": (
        "options hubert_deltalm   (--hubert-path {})",
        "distil train dphubert_base model.teacher_path={}",
    ),
    "deltalm": (
        "prune-vocab --checkpoint {} --spm-model spm.model --dict dict.txt --text texts --out smaller",
    ),
    "folder": ("import --from {} --out whisper.pt   (of a Whisper)",),
}
ENCODERS = ("pruned_hubert", "wavlm")


def main(name: str, arguments: list[str]) -> int:
    """Print what files are; returns the exit status."""
    parser = argparse.ArgumentParser(prog=name, description=__doc__.partition(": ")[2])
    parser.add_argument("file", nargs="+", help="checkpoint, or folder of transformers")
    parser.add_argument("--json", action="store_true", help="one JSON object a file")
    args = parser.parse_args(arguments)
    for path in args.file:
        try:
            found = describe(Path(path))
        except (OSError, ValueError) as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            return 2
        if args.json:
            print(json.dumps({"file": path, **found}, ensure_ascii=False))
        else:
            print("\n".join([path, *_lines(found, 2)]))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """What a file is: {heading: value, or {name: value}}, as JSON can have it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        return _folder(path)
    from fairseq_prune.checkpoints.loading import load_checkpoint_file, model_and_task_options

    checkpoint = load_checkpoint_file(path, mmap=True)
    weights = _weights(checkpoint.get("model", checkpoint.get("state_dict", checkpoint)))
    if not (checkpoint.get("cfg") or checkpoint.get("args")):
        kind = "deltalm" if any("ffn_layer_norm" in key or "fc3" in key for key in weights) else "unknown"
        return {
            "model": f"{kind} (weights without a configuration)",
            **_sizes(path, weights),
            **_next(path, kind),
        }
    model, task = model_and_task_options(checkpoint, path)
    name = str(model.get("_name") or model.get("arch"))
    task_name = str(task.get("_name") or task.get("task"))
    history = checkpoint.get("optimizer_history") or [{}]
    found: dict[str, Any] = {
        "model": name,
        "task": task_name,
        "updates": history[-1].get("num_updates"),
        **{option: (task.get(option) or model.get(option)) for option in SAYS},
        **_sizes(path, weights),
        "vocabularies": _vocabularies(checkpoint.get("task_state") or {}, weights),
        "pruning": _pruning(model, checkpoint.get("model", {}), weights),
        "output preview": _preview(checkpoint, path),
    }
    kind = next(
        (key for key in (name, task_name, "encoder" if name in ENCODERS else name) if key in NEXT), "hubert"
    )
    found = {key: value for key, value in found.items() if value not in (None, "", {}, False)}
    return {**found, **_next(path, kind)}


def _weights(state: Any) -> dict[str, Any]:
    return {key: value for key, value in state.items() if hasattr(value, "numel") and hasattr(value, "dtype")}


def _preview(checkpoint: Mapping[str, Any], path: Path) -> dict[str, int]:
    from fairseq_prune.checkpoints.previews import preview_of

    preview = preview_of(checkpoint, path)
    if preview is None:
        return {}
    return {"directions": preview.directions.shape[1], "tokens in full": preview.candidates}


def _sizes(path: Path, weights: Mapping[str, Any]) -> dict[str, Any]:
    layers: dict[str, set[int]] = {}
    for key in weights:
        match = LAYER.match(key)
        if match:
            layers.setdefault(match.group(1), set()).add(int(match.group(2)))
    kinds = Counter()
    for value in weights.values():
        kinds[str(value.dtype).removeprefix("torch.")] += value.numel()
    return {
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "parameters": sum(kinds.values()),
        "precision": ", ".join(kind for kind, _ in kinds.most_common()),
        "layers": {stack: len(numbers) for stack, numbers in layers.items()},
    }


def _vocabularies(state: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, int]:
    rows = {key: len(value) for key, value in weights.items() if key.endswith("embed_tokens.weight")}
    for name, value in state.get("vocabularies", state).items():
        if hasattr(value, "symbols"):  # fairseq's dictionary
            rows[name] = len(value)
        elif isinstance(value, Mapping) and "symbols" in value:
            rows[name] = len(value["symbols"].splitlines())
    return rows


def _pruning(
    options: Mapping[str, Any], state: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    from fairseq_prune.checkpoints.sparse import STATE
    from fairseq_prune.models.options import defaults_of
    from fairseq_prune.pruning.magnitude import TRANSFORMER_LAYERS

    found: dict[str, Any] = {}
    # a file may hold all options or some: those that are not as by default are the same in both
    usual = defaults_of(options.get("_name"))
    tokens = {
        key[len(TOKENS) :]: value
        for key, value in options.items()
        if key.startswith(TOKENS) and value not in (None, usual.get(key))
    }
    if "ratio" in tokens or "ratios" in tokens:
        found["tokens"] = tokens
    if state.get(STATE):
        found["weights"] = {key: state[STATE][key] for key in WEIGHTS if key in state[STATE]}
    layers = [value for key, value in weights.items() if re.fullmatch(TRANSFORMER_LAYERS, key)]
    zeros = sum(int((value == 0).sum()) for value in layers) / max(1, sum(value.numel() for value in layers))
    if zeros > 0.001:
        found["zeros in layers"] = round(zeros, 4)
    if options.get("layer_sizes"):
        found["shapes"] = json.loads(options["layer_sizes"])
    for option in ("hubert_config", "student_config"):
        shapes = json.loads(options[option]) if options.get(option) else {}
        cut = {key: shapes[key] for key in ("heads", "units") if isinstance(shapes.get(key), list)}
        if cut:
            found["shapes"] = cut
    return found


def _folder(path: Path) -> dict[str, Any]:
    """Of a folder of transformers; needs no fairseq."""
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: has no config.json, expected a checkpoint or a folder of transformers")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    files = [file for pattern in ("*.safetensors", "*.bin") for file in path.glob(pattern)]
    pruning = {
        key: config[key] for key in ("token_pruning", "sparsity", "attention_heads_left") if key in config
    }
    found = {
        "model": ", ".join(config.get("architectures") or []) or config.get("model_type") or "CTranslate2",
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "layers": {
            key: config[key]
            for key in ("encoder_layers", "decoder_layers", "num_hidden_layers")
            if key in config
        },
        "vocabularies": {"tokens": config["vocab_size"]} if "vocab_size" in config else {},
        "pruning": pruning,
    }
    return {**{key: value for key, value in found.items() if value}, **_next(path, "folder")}


def _next(path: Path, kind: str) -> dict[str, Any]:
    return {"next": [f"fairseq-prune {command.format(path)}" for command in NEXT.get(kind, ())]}


def _lines(found: Mapping[str, Any], indent: int) -> list[str]:
    lines = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            lines += [" " * indent + f"{name}:", *_lines(value, indent + 2)]
        elif isinstance(value, list) and value and isinstance(value[0], str):
            lines += [" " * indent + f"{name}:", *(" " * (indent + 2) + line for line in value)]
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(" " * indent + f"{name}: {shown}")
    return lines
