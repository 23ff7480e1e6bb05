"""Recognising speech with a CTC checkpoint of fairseq alone: no data directory, no flags of the training."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import tasks
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from fairseq_prune.checkpoints.loading import load_fairseq_state, load_state_dict_strictly
from fairseq_prune.data.labelled_audio import WORD_END, letters, words
from fairseq_prune.inference.base import usable_device
from fairseq_prune.models.magnitude_pruning import STATE
from fairseq_prune.modules.hubert.convolution import (
    conv_output_length,
    extract_conv_features,
    normalize_waveform,
    samples_of_a_frame,
)
from fairseq_prune.pruning.tokens import padding_mask_of
from fairseq_prune.text.dictionaries import read_dictionary
from fairseq_prune.text.lines import read_lines

BLANK = "<s>"  # of fairseq's task audio_finetuning
MODELS = ("wav2vec_ctc", "wav2vec_ctc_parp", "hubert_ctc", "hubert_ctc_parp")
CLUSTERS = "w2v_encoder.w2v_model.label_embs_concat"  # what HuBERT was pretrained on
Decode = Callable[[Tensor, list[int]], list[str]]  # log probs (batch, frames, labels), valid frames -> labels


class Recognizer:
    """A trained `wav2vec_ctc`, `hubert_ctc`, or one of this package, ready to recognise.

    Waveforms are tensors (samples,) at 16 kHz in [-1, 1]. What one becomes does not depend on those beside it.

    Args:
        checkpoint: file that fairseq-train wrote under the task ``audio_finetuning``.
        dictionary: of the labels, for checkpoints that hold none, as the published ones: a fairseq dictionary, or a
            data folder with one.
        overrides: options of the checkpoint to change.
        device: where to run.
        half: float16, on GPUs.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no checkpoint, or of another task or model; an override or the device cannot be used.
    """

    def __init__(
        self,
        checkpoint: str,
        dictionary: Optional[Path] = None,
        overrides: Optional[dict[str, Any]] = None,
        device: str = "cpu",
        half: bool = False,
    ):
        self.device = usable_device(device)
        if half and self.device.type == "cpu":
            raise ValueError("float16 needs a GPU, found device cpu")
        self.half = half
        state = load_fairseq_state(checkpoint, overrides)
        cfg = state["cfg"]
        if not cfg.task.get("labels") or cfg.model._name not in MODELS:
            raise ValueError(
                f"{checkpoint}: a model {cfg.model._name} of task {cfg.task._name}; expected one of "
                f"{', '.join(MODELS)}, of task audio_finetuning with labels"
            )
        self.labels = cfg.task.labels
        self.normalize = cfg.task.normalize
        cfg.task._name = "audio_finetuning"  # in 2020 it was audio_pretraining with labels
        task = tasks.setup_task(cfg.task)
        task.load_state_dict(state.get("task_state") or {})
        if "target_dictionary" not in task.state_dict():
            if dictionary is None:
                raise ValueError(f"{checkpoint}: holds no dictionary; give the one of its training (--dict)")
            if dictionary.is_dir():
                dictionary = dictionary / f"dict.{self.labels}.txt"
            task.load_state_dict({"target_dictionary": read_dictionary(dictionary)})
        self.dictionary = task.target_dictionary
        # what is pruned is zero already, without the state of pruning
        weights = {name: value for name, value in state["model"].items() if name != STATE}
        if CLUSTERS in weights and "dictionaries" not in task.state_dict():
            task.load_state_dict({"dictionaries": [_dictionary_of_size(len(weights[CLUSTERS]))]})
        if "prune_sparsity" in cfg.model:
            cfg.model.prune_sparsity = 0.0
        model = task.build_model(cfg.model, from_checkpoint=True)
        load_state_dict_strictly(model, weights, checkpoint)
        encoder = model.w2v_encoder.w2v_model
        encoder.feature_extractor = self.extractor = _OwnStatistics(encoder.feature_extractor)
        if hasattr(encoder, "forward_padding_mask"):
            # HuBERT counts valid frames from the length of the batch
            encoder.forward_padding_mask = self.extractor.padding_mask
        self.model = model.eval().to(self.device)
        if half:
            self.model.half()

    def text(self, labels: str) -> str:
        """Words of letters; other labels as they are."""
        return words(labels) if WORD_END in self.dictionary.symbols else labels

    def batches(self, lengths: Sequence[int], max_samples: int) -> list[list[int]]:
        """Indices by length, longest first; a batch has at most ``max_samples`` with its padding, or one waveform.

        Waveforms that are too short for a frame are in none.
        """
        shortest = samples_of_a_frame(self.extractor.kernels_strides)
        batches: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if lengths[i] < shortest:
                continue
            if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_samples:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def recognize(
        self,
        lengths: Sequence[int],
        read: Callable[[int], Tensor],
        decode: Optional[Decode] = None,
        max_samples: int = 16000 * 60,
        progress: Optional[str] = None,
    ) -> list[str]:
        """The labels of each waveform, with spaces between; none for one that is too short for a frame.

        Args:
            lengths: samples of each waveform.
            read: the waveform of an index; read when its batch is due, so that a corpus need not fit in memory.
            decode: greedy by default.
            max_samples: in a batch, with padding.
            progress: title of a progress bar.
        """
        decode = decode or self.greedy
        labels = [""] * len(lengths)
        batches = self.batches(lengths, max_samples)
        for indices in tqdm(batches, desc=progress, unit="batch", disable=progress is None):
            probabilities, frames = self.log_probs([read(i) for i in indices])
            for i, found in zip(indices, decode(probabilities, frames)):
                labels[i] = found
        return labels

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Log probabilities (batch, frames, labels) in float32, and the valid frames of each waveform."""
        lengths = [len(waveform) for waveform in waveforms]
        source = pad_sequence(list(waveforms), batch_first=True).to(self.device)
        if self.normalize:
            source = normalize_waveform(source, lengths)
        source = source.half() if self.half else source
        padding = (
            torch.arange(source.shape[1], device=self.device)
            >= torch.tensor(lengths, device=self.device)[:, None]
        )
        self.extractor.lengths = lengths
        out = self.model(source=source, padding_mask=padding)
        found = self.model.get_normalized_probs(out, log_probs=True)
        return found.transpose(0, 1).float(), self.extractor.frames(lengths)

    def greedy(self, log_probs: Tensor, frames: Sequence[int]) -> list[str]:
        """The labels of the likeliest path of each row."""
        blank, special = self.dictionary.index(BLANK), self.dictionary.nspecial
        best = log_probs.argmax(-1).cpu()
        texts = []
        for row, n in zip(best, frames):
            path = row[:n].unique_consecutive()
            path = path[(path != blank) & (path >= special)]
            texts.append(" ".join(self.dictionary[label] for label in path.tolist()))
        return texts


def _dictionary_of_size(symbols: int) -> Dictionary:
    """For HuBERT, which has its size by its dictionary, and in `hubert_ctc` does not keep it."""
    dictionary = Dictionary()
    for number in range(symbols - len(dictionary)):
        dictionary.add_symbol(str(number))
    return dictionary


class _OwnStatistics(nn.Module):
    """A convolutional extractor whose statistics are of each waveform's own samples, ``lengths`` of the next batch."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.conv_layers = extractor.conv_layers
        convolutions = [module for block in self.conv_layers for module in block.modules()]
        convolutions = [module for module in convolutions if isinstance(module, nn.Conv1d)]
        self.kernels_strides = [(conv.kernel_size[0], conv.stride[0]) for conv in convolutions]
        self.lengths: list[int] = []

    def frames(self, lengths: Sequence[int]) -> list[int]:
        """Valid frames of waveforms."""
        return [conv_output_length(length, self.kernels_strides) for length in lengths]

    def forward(self, source: Tensor) -> Tensor:
        """(batch, samples) -> (batch, channels, frames)."""
        return extract_conv_features(self.conv_layers, source, self.lengths)

    def padding_mask(self, features: Tensor, _) -> Optional[Tensor]:
        """Of features (batch, frames, channels); None without padding."""
        return padding_mask_of(self.frames(self.lengths), features.shape[1], features.device)


def beam_search(
    dictionary: Dictionary,
    model: str,
    lexicon: Optional[str] = None,
    weight: float = 2.0,
    word_score: float = 0.0,
    beam: int = 50,
) -> Decode:
    """A decoder with a word n-gram model: torchaudio's, of flashlight-text and KenLM.

    Args:
        model: of KenLM, ARPA or binary.
        lexicon: a line a word, with its labels: ``OAK O A K |``. Left out: the words of an ARPA file, in letters.
        weight: of the model's log probability; word_score: added for each word.
        beam: hypotheses that are held.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extra is not installed; the lexicon is missing, or has a label outside of the dictionary.
    """
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"a language model needs: pip install fairseq_prune[lm] ({error})") from None
    if not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such language model")
    spelled = _read_lexicon(lexicon) if lexicon else {word: letters(word) for word in _arpa_words(model)}
    known = set(dictionary.symbols)
    spelled = {word: labels for word, labels in spelled.items() if known.issuperset(labels.split())}
    if not spelled:
        raise ValueError(f"{lexicon or model}: no word of it can be spelled with the dictionary")
    with tempfile.NamedTemporaryFile("w", suffix=".lexicon", encoding="utf-8") as file:
        file.writelines(f"{word} {labels}\n" for word, labels in spelled.items())
        file.flush()
        try:
            decoder = ctc_decoder(
                lexicon=file.name,
                tokens=dictionary.symbols,
                lm=str(model),
                beam_size=beam,
                lm_weight=weight,
                word_score=word_score,
                blank_token=BLANK,
                sil_token=WORD_END,
            )
        except RuntimeError as error:
            raise ValueError(f"{model}: KenLM cannot read it ({str(error).splitlines()[-1]})") from None

    def decode(log_probs: Tensor, frames: Sequence[int]) -> list[str]:
        found = decoder(log_probs.cpu().contiguous(), torch.tensor(frames, dtype=torch.int32))
        return [letters(" ".join(best[0].words)) if best else "" for best in found]

    return decode


def _read_lexicon(path) -> dict[str, str]:
    spelled = {}
    for number, line in enumerate(read_lines(path, "lexicon"), start=1):
        word, _, labels = " ".join(line.split()).partition(" ")
        if not labels:
            raise ValueError(f"{path}, line {number}: expected a word and its labels, found {line!r}")
        spelled[word] = labels
    return spelled


def _arpa_words(path) -> list[str]:
    """The unigrams of an ARPA file."""
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        if not any(line.startswith("\\1-grams:") for line in file):
            raise ValueError(f"{path}: its words cannot be read, as it is no ARPA file; give a lexicon")
        for line in file:
            if line.startswith("\\"):
                break
            fields = line.split()
            if len(fields) > 1 and not fields[1].startswith("<"):
                found.append(fields[1])
    return found
