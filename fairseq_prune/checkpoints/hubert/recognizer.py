"""A recogniser with CTC in the formats of other libraries; each is loaded back and compared before it is done."""

import json
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.formats import export_format
from fairseq_prune.checkpoints.hubert.export import require_equal, write_huggingface
from fairseq_prune.checkpoints.hubert.onnx import (
    INT8_TOLERANCE,
    PRODUCTS,
    TOLERANCE,
    EncoderGraph,
    frames_config,
    noise,
    write_encoder_graph,
)
from fairseq_prune.checkpoints.hubert.reading import hubert_in
from fairseq_prune.checkpoints.loading import load_state_dict_strictly, model_and_task_options
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime.folder import CONFIG, ENCODER
from fairseq_prune.checkpoints.runtime.hubert import RECOGNIZER, OnnxRecognizer
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.convolution import normalize_waveform
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

RECOGNIZERS = ("wav2vec_ctc*", "hubert_ctc*")
SAMPLES = (16_000, 7000)  # of the utterances that are compared
BLANK = "<s>"  # of fairseq's task audio_finetuning
WORD_END = "|"  # as in data/labelled_audio.py


class RecognizerGraph(EncoderGraph):
    """An encoder and a head: log probabilities (batch, frames, labels), and the valid frames (batch,) of each row."""

    def __init__(self, hubert: TokenPrunedHubert, head: nn.Linear):
        super().__init__(hubert)
        self.head = head

    def forward(self, source: Tensor, lengths: Tensor, *plan: Tensor) -> tuple[Tensor, Tensor]:
        """As of its class."""
        frames, lengths = self.encode(source, lengths, *plan)
        return self.head(frames.x).log_softmax(-1), lengths


def encoder_and_head(model: nn.Module) -> tuple[TokenPrunedHubert, nn.Linear, str]:
    """The parts of a recogniser of fairseq or of this package, and the name of its encoder's model ("wav2vec2").

    Raises:
        ValueError: its encoder is no HuBERT or wav2vec 2.0, or its blank has a score of its own.
    """
    if getattr(model, "blank_weight", 0):
        raise ValueError(f"blank_weight: found {model.blank_weight}, the format holds 0")
    pretrained, head = model.w2v_encoder.w2v_model, model.w2v_encoder.proj
    pretraining = OmegaConf.to_container(model.cfg.w2v_args, enum_to_str=True)
    options, task = model_and_task_options({"cfg": pretraining}, "w2v_args")
    if isinstance(pretrained, TokenPrunedHubert):
        return pretrained.float().eval(), head, options["_name"]
    checkpoint = hubert_in(options, task.get("normalize", False), pretrained.state_dict(), "w2v_args")
    encoder = build_encoder(checkpoint.architecture)
    load_state_dict_strictly(encoder, checkpoint.state_dict, "w2v_args")
    return encoder.eval(), head, options["_name"]


@torch.no_grad()
def log_probs_of(model: nn.Module, task, samples: int) -> tuple[Tensor, Tensor]:
    """Noise (1, samples), and the log probabilities (1, frames, labels) that fairseq's model gives of it."""
    waveform = noise([samples])
    source = normalize_waveform(waveform, [samples]) if task.cfg.normalize else waveform
    extractor = model.w2v_encoder.w2v_model.feature_extractor
    if hasattr(extractor, "lengths"):  # of `inference.recognition`
        extractor.lengths = [samples]
    out = model(source=source, padding_mask=torch.zeros(1, samples, dtype=torch.bool))
    return waveform, model.get_normalized_probs(out, log_probs=True).transpose(0, 1)


@export_format("onnx", RECOGNIZERS, int8=True)
def export_onnx(model, task, out: Path, options) -> None:
    """Write a folder for `runtime.hubert.OnnxRecognizer`: a graph, and what it must know to make text.

    Args:
        model: of fairseq, `wav2vec_ctc`, `hubert_ctc`, or of this package.
        task: ``audio_finetuning``, with the dictionary of the labels.
        out: folder to write, which must not exist.
        options: of scripts/export.py; ``int8`` stores the matrices of the transformer in 8 bits.

    Raises:
        ValueError: onnx or onnxruntime is missing, or computes something else; as `encoder_and_head`.
    """
    encoder, head, _ = encoder_and_head(model)
    out.mkdir(parents=True)
    write_encoder_graph(RecognizerGraph(encoder, head), out / ENCODER, ["log_probs", "frames"])
    symbols = task.target_dictionary.symbols
    config = {
        "kind": RECOGNIZER,
        **frames_config(encoder),
        "labels": symbols,
        "special_labels": task.target_dictionary.nspecial,
        "word_end": WORD_END if WORD_END in symbols else None,
    }
    (out / CONFIG).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    _compare(model, task, out, TOLERANCE)
    if getattr(options, "int8", False):
        quantize(out / ENCODER, out / ENCODER, PRODUCTS)
        _compare(model, task, out, INT8_TOLERANCE)


def _compare(model, task, folder: Path, tolerance: float) -> None:
    """Each utterance alone with fairseq's model, and in a batch with what it is alone."""
    runner = OnnxRecognizer(folder)
    waveforms, expected = zip(*(log_probs_of(model, task, samples) for samples in SAMPLES))
    log_probs, frames = runner.log_probs([waveform[0].numpy() for waveform in waveforms])
    for row, count, wanted in zip(log_probs, frames, expected):
        require_equal(torch.from_numpy(row[:count])[None], wanted, folder, tolerance)


@export_format("hf", RECOGNIZERS)
def export_huggingface(model, task, out: Path, options=None) -> None:
    """Write a folder that `HubertForCTC` or `Wav2Vec2ForCTC` of transformers loads, with its processor.

    Raises:
        ValueError: transformers is missing, cannot express the encoder's shapes or the labels, or computes something
            else.
    """
    transformers = import_extra("transformers", "bench")
    encoder, head, kind = encoder_and_head(model)
    symbols = task.target_dictionary.symbols
    if WORD_END not in symbols:
        raise ValueError(
            f"the format holds letters with {WORD_END!r} after each word, found labels {symbols[4:8]}: use"
            " --format onnx"
        )
    blank, pad = task.target_dictionary.index(BLANK), task.target_dictionary.pad()
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    # transformers takes the padding for the blank
    ids["<pad>"], ids[BLANK] = blank, pad
    heads = {"lm_head.weight": head.weight, "lm_head.bias": head.bias}
    special = {"pad_token_id": blank, "bos_token_id": pad, "eos_token_id": task.target_dictionary.eos()}
    family = "Wav2Vec2" if kind == "wav2vec2" else "Hubert"
    write_huggingface(encoder, out, f"{family}ForCTC", heads, vocab_size=len(symbols), **special)
    (out / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    with quiet():
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(out / "vocab.json"), word_delimiter_token=WORD_END)
        tokenizer.save_pretrained(out)
        back = getattr(transformers, f"{family}ForCTC").from_pretrained(out).eval()
    for samples in SAMPLES:
        waveform, expected = log_probs_of(model, task, samples)
        source = normalize_waveform(waveform, [samples]) if encoder.normalize else waveform
        with torch.no_grad():
            require_equal(back(source).logits.log_softmax(-1), expected, out, TOLERANCE)
