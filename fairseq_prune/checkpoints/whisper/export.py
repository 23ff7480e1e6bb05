"""A Whisper of ours in the formats of other libraries; each is loaded there and compared before the writer returns.

Hugging Face's library and CTranslate2 (faster-whisper) fill every clip up to the whole context, as published; only the
ONNX export (`checkpoints.whisper.onnx`) knows the clip's own length.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.huggingface_folder import pruning_entry
from fairseq_prune.checkpoints.runtime.whisper import frames_heard
from fairseq_prune.modules.whisper.generation import suppressed_tokens
from fairseq_prune.text.byte_level_bpe_cutting import TIMESTAMP

logger = logging.getLogger(__name__)

COMPARED_TOKENS = 10  # of twice as many that are generated: libraries count the longest text differently
TOLERANCE = 1e-3  # of logits


@export_format("hf", ("whisper*",))
def export_huggingface(model, task, out: Path, options=None) -> None:
    """Write a folder that `WhisperForConditionalGeneration` and `WhisperProcessor` of transformers load.

    Args:
        model: `models.whisper.Whisper`.
        task: ``spoken_language_understanding``, with the tokenizer.
        out: folder to write, which must not exist.
        options: of scripts/export.py; none is looked at.

    Raises:
        ValueError: transformers is missing, or computes something else from the folder.
    """
    transformers = import_extra("transformers", "ctranslate2")
    context = model.encoder.audio_context
    if context != "30s":
        logger.warning(
            f"the model has learned to hear less than 30 s (--audio-context {context}); transformers and faster-whisper"
            " fill a clip up with silence to 30 s, and may write other texts than fairseq-generate does; --format onnx"
            " hears what the model hears, and so does ctranslate2.models.Whisper, given features of that length"
        )
    if not model.encoder.pruning.keeps_all:
        logger.warning(
            "the model drops frames; transformers and CTranslate2 alone let all go on."
            " fairseq_prune.adapters.transformers.load drops those that config.json of transformers' format tells of"
        )
    transformers.utils.logging.disable_progress_bar()
    out.mkdir(parents=True)
    theirs = transformers.WhisperForConditionalGeneration(_config(transformers, model, task)).eval()
    weights = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
    weights["proj_out.weight"] = model.decoder.embed_tokens.weight
    theirs.load_state_dict(weights)
    theirs.generation_config = _generation_config(transformers, model, task)
    with quiet():
        theirs.save_pretrained(out)
    _write_tokenizer(out, task)
    seconds = model.encoder.max_positions() // 100
    transformers.WhisperFeatureExtractor(
        model.encoder.conv1.in_channels, chunk_length=seconds
    ).save_pretrained(out)
    _compare_huggingface(transformers, model, task, out)


@export_format("ctranslate2", ("whisper*",), int8=True)
def export_ctranslate2(model, task, out: Path, options) -> None:
    """Write a folder that CTranslate2 and faster-whisper load; float32, or 8 bits with ``options.int8``.

    Raises:
        ValueError: transformers or ctranslate2 is missing, or generates something else from the folder.
    """
    ctranslate2 = import_extra("ctranslate2", "ctranslate2")
    import_extra("ctranslate2.converters", "ctranslate2")
    int8 = bool(getattr(options, "int8", False))
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "hf"
        export_huggingface(model, task, folder)
        files = ["tokenizer.json", "preprocessor_config.json"]
        converter = ctranslate2.converters.TransformersConverter(str(folder), copy_files=files)
        with quiet():
            converter.convert(str(out), quantization="int8" if int8 else "float32")
    theirs = ctranslate2.models.Whisper(str(out), compute_type="int8" if int8 else "float32")
    features = _silenced_noise(model)
    # CTranslate2 takes as many frames as the model has learned to hear
    most = features.size(1)
    features = features[:, : frames_heard(model.encoder.audio_context, most // 6, most)]
    found = theirs.generate(
        ctranslate2.StorageView.from_array(features.transpose(1, 2).contiguous().numpy()),
        [task.prefix],
        beam_size=1,
        max_length=len(task.prefix) + 2 * COMPARED_TOKENS,
        suppress_tokens=_suppressed(task)[0] or None,
        suppress_blank=bool(_suppressed(task)[1]),
    )[0].sequences_ids[0]
    _require_same_text(found, model, task, features, "CTranslate2", exactly=not int8)


def _config(transformers, model, task) -> Any:
    encoder, decoder = model.encoder, model.decoder
    for component, found in model.layer_sizes().items():
        if len(set(found)) > 1 or 0 in found:
            raise ValueError(
                f"found {component} of the sizes {', '.join(map(str, found))} in its layers, expected all alike: this"
                " format holds no other model (onnx does)"
            )
    attention = decoder.layers[0].self_attn
    if attention.num_heads * attention.head_dim != decoder.embed_tokens.embedding_dim:
        raise ValueError(
            f"found {attention.num_heads} heads of {attention.head_dim} dimensions, expected as many as the width"
            f" {decoder.embed_tokens.embedding_dim} has: this format holds no model that lost heads (onnx does)"
        )
    end = task.tokenizer.dictionary.eos()
    return transformers.WhisperConfig(
        vocab_size=decoder.embed_tokens.num_embeddings,
        d_model=decoder.embed_tokens.embedding_dim,
        num_mel_bins=encoder.conv1.in_channels,
        encoder_layers=len(encoder.layers),
        decoder_layers=len(decoder.layers),
        encoder_ffn_dim=encoder.layers[0].units,
        decoder_ffn_dim=decoder.layers[0].units,
        encoder_attention_heads=encoder.layers[0].self_attn.num_heads,
        decoder_attention_heads=decoder.layers[0].self_attn.num_heads,
        max_source_positions=encoder.embed_positions.num_embeddings,
        max_target_positions=decoder.embed_positions.num_embeddings,
        decoder_start_token_id=task.prefix[0],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **pruning_entry(encoder),
    )


def _suppressed(task) -> tuple[list[int], list[int]]:
    """What the task never generates, and never first."""
    return suppressed_tokens(task.tokenizer) if str(task.cfg.suppress_tokens) == "non_speech" else ([], [])


def _generation_config(transformers, model, task) -> Any:
    never, first = _suppressed(task)
    special, end = task.tokenizer.special, task.tokenizer.dictionary.eos()
    options = dict(
        decoder_start_token_id=task.prefix[0],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=model.decoder.max_positions(),
        suppress_tokens=never,
        begin_suppress_tokens=first,
        no_timestamps_token_id=task.prefix[-1],
        return_timestamps=False,
        is_multilingual=task.cfg.language is not None,
    )
    if task.cfg.language is not None:
        tasks = ("translate", "transcribe")
        options["task_to_id"] = {name: special[f"<|{name}|>"] for name in tasks}
        options["lang_to_id"] = {f"<|{name}|>": special[f"<|{name}|>"] for name in task.tokenizer.languages}
        options["language"], options["task"] = (
            f"<|{task.cfg.language}|>",
            str(task.cfg.spoken_task or "transcribe"),
        )
    return transformers.GenerationConfig(**options)


def _write_tokenizer(out: Path, task) -> None:
    """tokenizer.json, and vocab.json and merges.txt, of which transformers before 5 makes the processor's."""
    tokenizer = task.tokenizer
    content = json.loads(tokenizer.to_json())
    for token in content["added_tokens"]:
        # as published; transformers takes what lies after the last special token for a timestamp
        token["special"] = token["special"] and not TIMESTAMP.fullmatch(token["content"])
    names = [tokenizer.dictionary[index] for index in task.prefix]
    end = tokenizer.dictionary[tokenizer.dictionary.eos()]
    single = [
        *({"SpecialToken": {"id": name, "type_id": 0}} for name in names),
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": end, "type_id": 0}},
    ]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [
            *single[:-1],
            {"Sequence": {"id": "B", "type_id": 1}},
            {"SpecialToken": {"id": end, "type_id": 1}},
        ],
        "special_tokens": {
            name: {"id": name, "ids": [tokenizer.special[name]], "tokens": [name]} for name in [*names, end]
        },
    }
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    config = {
        "tokenizer_class": "WhisperTokenizer",
        "add_prefix_space": False,
        "model_max_length": 1024,
        **{f"{role}_token": end for role in ("bos", "eos", "unk", "pad")},
        "additional_special_tokens": [
            token["content"] for token in content["added_tokens"] if token["special"]
        ],
        "added_tokens_decoder": {
            str(token["id"]): {flag: token[flag] for flag in flags} for token in content["added_tokens"]
        },
    }
    if task.cfg.language is not None:
        config.update(language=task.cfg.language, task=str(task.cfg.spoken_task or "transcribe"))
    files = {
        "tokenizer.json": content,
        "tokenizer_config.json": config,
        "vocab.json": content["model"]["vocab"],
    }
    for name, written in files.items():
        (out / name).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *content["model"]["merges"]])
    (out / "merges.txt").write_text(merges + "\n", encoding="utf-8")


@torch.no_grad()
def _compare_huggingface(transformers, model, task, folder: Path) -> None:
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    features = _silenced_noise(model)
    tokens = torch.randint(len(task.tokenizer), (1, 12), generator=torch.Generator().manual_seed(1))
    expected, _ = model.decoder(tokens, _encode(model, features))
    found = theirs(input_features=features.transpose(1, 2), decoder_input_ids=tokens).logits
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference < TOLERANCE:
        raise ValueError(
            f"{folder}: transformers' logits differ from the model's by {difference:.2g} of the largest"
        )
    text = task.tokenizer.decode(range(0, len(task.tokenizer), 97))
    if processor.tokenizer(text, add_special_tokens=False).input_ids != task.tokenizer.encode(text):
        raise ValueError(
            f"{folder}: transformers' tokenizer gives other tokens than the model's for {text[:40]!r}"
        )
    with quiet():
        found = theirs.generate(features.transpose(1, 2), max_new_tokens=2 * COMPARED_TOKENS, num_beams=1)
    _require_same_text(found[0].tolist(), model, task, features, "transformers")


def _silenced_noise(model) -> Tensor:
    """Features (1, mel frames, mel bins) of the whole context: a sixth of it noise, then silence."""
    frames = model.encoder.max_positions()
    features = torch.rand(
        1, frames, model.encoder.conv1.in_channels, generator=torch.Generator().manual_seed(0)
    )
    features[:, frames // 6 :] = features.max() - 2
    return features


def _encode(model, features: Tensor) -> dict[str, Any]:
    """The encoder's output where every frame is seen and goes on, as other libraries have it."""
    with model.encoder.all_kept():
        return model.encoder(features, torch.tensor([features.size(1)]), audio_context="clip")


@torch.no_grad()
def _require_same_text(found, model, task, features: Tensor, library: str, exactly: bool = True) -> None:
    """Check that what a library generated greedily, perhaps with the prefix, is a greedy text of the model.

    At each step the model's best token may be better than the library's by rounding alone. Which of two tokens that
    are equally likely comes first is rounding, too: a model that hears other lengths than it has learned is often
    as undecided.

    Raises:
        ValueError: it is another text, and ``exactly`` is asked for; otherwise this is logged.
    """
    end, prefix, found = task.tokenizer.dictionary.eos(), task.prefix, list(found)
    found = found[len(prefix) :] if found[: len(prefix)] == prefix else found
    text = (found[: found.index(end)] if end in found else found)[:COMPARED_TOKENS]
    logits = model.decoder(torch.tensor([[*prefix, *text]]), _encode(model, features))[0][
        0, len(prefix) - 1 :
    ]
    rounding = 2 * TOLERANCE * float(logits.abs().max())
    never, first = _suppressed(task)
    logits[:, never] = -torch.inf
    logits[0, first] = -torch.inf
    expected = logits.argmax(1)
    written = torch.tensor([*text, end] if len(text) < COMPARED_TOKENS else text)
    steps = torch.arange(len(written))
    behind = logits[steps, expected[steps]] - logits[steps, written]
    wrong = torch.nonzero(~(behind <= rounding)).flatten().tolist()
    if not wrong:
        return
    step = wrong[0]
    message = (
        f"{library} generates the token {int(written[step])} after {text[:step]}, where the model generates"
        f" {int(expected[step])}"
    )
    if exactly:
        raise ValueError(f"{message}; try another version of {library}, or --format onnx, which needs none")
    logger.warning(f"with weights of 8 bits, {message}")
