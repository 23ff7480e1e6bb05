"""Whether a device computes what the CPU does: checks that say what they found."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from fairseq import models
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.models.hubert_deltalm_config import HubertDeltaLMConfig
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.pruning.schedules import layer_keep_ratios

VOCABULARY = 1000
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Check:
    """passed: None where the device cannot do it. found: a figure with what it is."""

    name: str
    passed: bool
    found: str


class Subject:
    """What is checked: a translation model of random weights, and speech of several lengths.

    Args:
        device: where it is checked.
        options: of `HubertDeltaLMConfig`; by default the published size.
        seconds: lengths of the utterances.
    """

    def __init__(self, device: torch.device, options: dict, seconds: tuple[float, ...]):
        self.device, self.options = device, options
        self.lengths = [round(16_000 * length) for length in sorted(seconds, reverse=True)]
        generator = torch.Generator().manual_seed(0)
        self.speech = 0.1 * torch.randn(len(seconds), self.lengths[0], generator=generator)
        for row, length in zip(self.speech, self.lengths):
            row[length:] = 0
        self.model = build_translator(options).eval()

    def model_on(self, device: torch.device) -> nn.Module:
        """A copy of the model."""
        return copy.deepcopy(self.model).to(device)

    def hubert_on(
        self, device: torch.device, criterion: str = "received", keep: float = 1.0
    ) -> TokenPrunedHubert:
        """A copy of its encoder, with a keep ratio from the second layer on."""
        hubert = copy.deepcopy(self.model.encoder.hubert)
        hubert.pruning = TokenPruning(layer_keep_ratios(len(hubert.encoder.layers), keep, 2), criterion)
        return hubert.to(device).eval()

    def sample(self, device: torch.device) -> dict:
        """A batch of training."""
        batch = len(self.lengths)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(4, VOCABULARY, (batch, 12), generator=generator).to(device)
        inputs = {
            "src_tokens": self.speech.to(device),
            "src_lengths": torch.tensor(self.lengths, device=device),
            "prev_output_tokens": tokens,
        }
        ctc = {"ctc_target": tokens[:, :4], "ctc_target_lengths": torch.full((batch,), 4, device=device)}
        return {"net_input": inputs, "target": tokens, "ntokens": tokens.numel(), **ctc}


def task_of(vocabulary: int = VOCABULARY) -> SimpleNamespace:
    """What model and criterion ask of a task."""
    words = Dictionary()
    for index in range(vocabulary - len(words)):
        words.add_symbol(f"piece{index}")
    return SimpleNamespace(target_dictionary=words, transcript_dictionary=None, ctc_dictionary=words)


def build_translator(options: dict, vocabulary: int = VOCABULARY) -> nn.Module:
    """A hubert_deltalm with CTC head, of random weights and without dropout."""
    torch.manual_seed(0)
    still = dict.fromkeys(("hubert_dropout", "hubert_attention_dropout", "dropout"), 0.0)
    config = OmegaConf.structured(HubertDeltaLMConfig(**{**still, **options}))
    cfg = OmegaConf.create({"model": config}).model
    cfg._name = "hubert_deltalm_base"
    return models.build_model(cfg, task_of(vocabulary))


def loss_and_gradients(model: nn.Module, sample: dict) -> tuple[Tensor, Tensor]:
    """The loss of a batch per token, and all gradients in one vector, float32."""
    criterion = SpeechTranslationCriterion(task_of(), False, 0.1, 0, False, 1.0, 0.0)
    loss, _, _ = criterion(model.train(), sample)
    (loss / sample["ntokens"]).backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return loss.detach().float() / sample["ntokens"], torch.cat(gradients)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def near(name: str, found: Tensor, expected: Tensor, limit: float) -> Check:
    """Check a relative difference."""
    value = distance(found, expected)
    finite = bool(found.isfinite().all())
    return Check(name, finite and value <= limit, f"relative difference {value:.1e}, at most {limit:.0e}")


@torch.no_grad()
def same_as_the_cpu(subject: Subject) -> Iterator[Check]:
    """Outputs in float32."""
    for criterion, keep in (
        ("received", 1.0),
        ("received", 0.8),
        ("norm", 0.8),
        ("uniform", 0.8),
        ("merge", 0.8),
    ):
        run = [
            subject.hubert_on(device, criterion, keep)(subject.speech.to(device), subject.lengths)
            for device in (torch.device("cpu"), subject.device)
        ]
        what = "dense" if keep == 1 else f"{criterion} {keep:g}"
        same = float((run[0].positions == run[1].positions.cpu()).float().mean())
        # a frame more or less, where importances nearly tie, changes the others little
        yield Check(
            f"encoder as on the CPU, {what}: frames kept", same >= 0.99, f"{100 * same:.2f} % the same"
        )
        if same == 1:
            yield near(f"encoder as on the CPU, {what}: output", run[1].x, run[0].x, 1e-3)


def same_gradients(subject: Subject) -> Iterator[Check]:
    """Loss and gradients in float32."""
    on_cpu, here = (
        loss_and_gradients(subject.model_on(device), subject.sample(device))
        for device in (torch.device("cpu"), subject.device)
    )
    yield near("loss as on the CPU", here[0], on_cpu[0], 1e-4)
    yield near("gradients as on the CPU", here[1], on_cpu[1], 1e-2)


def half_precision(subject: Subject) -> Iterator[Check]:
    """Outputs and gradients in 16 bits, as of ``--fp16`` and ``--bf16``, and under autocast."""
    speech = subject.speech.to(subject.device)
    with torch.no_grad():
        exact = subject.hubert_on(subject.device)(speech, subject.lengths).x
        for name, dtype in HALF.items():
            found = subject.hubert_on(subject.device).to(dtype)(speech, subject.lengths).x
            yield near(f"encoder in {name}", found, exact, 0.05)
            with torch.autocast(subject.device.type, dtype):
                found = subject.hubert_on(subject.device)(speech, subject.lengths).x
            yield near(f"encoder under autocast, {name}", found, exact, 0.05)
    sample = subject.sample(subject.device)
    _, exact = loss_and_gradients(subject.model_on(subject.device), sample)
    for name, dtype in HALF.items():
        _, found = loss_and_gradients(subject.model_on(subject.device).to(dtype), sample)
        yield near(f"gradients in {name}", found, exact, 0.2)


@torch.no_grad()
def alone_as_in_a_batch(subject: Subject) -> Iterator[Check]:
    """An utterance has the same output alone."""
    for keep in (1.0, 0.8):
        hubert = subject.hubert_on(subject.device, keep=keep)
        together = hubert(subject.speech.to(subject.device), subject.lengths)
        row, length = len(subject.lengths) - 1, subject.lengths[-1]
        alone = hubert(subject.speech[row:, :length].to(subject.device), [length])
        found = together.x[row, : alone.x.shape[1]]
        yield near(f"alone as in a batch, keep {keep:g}", found, alone.x[0], 1e-3)


@torch.no_grad()
def without_waits(subject: Subject) -> Iterator[Check]:
    """The encoder does not wait for the device, once lengths are known."""
    for criterion, keep in (("received", 1.0), ("received", 0.8), ("merge", 0.8)):
        hubert = subject.hubert_on(subject.device, criterion, keep)
        speech = subject.speech.to(subject.device)
        hubert(speech, subject.lengths)
        name = f"no wait for the device, {criterion} {keep:g}"
        torch.cuda.set_sync_debug_mode("error")
        try:
            hubert(speech, subject.lengths)
            yield Check(name, True, "none")
        except RuntimeError as error:
            yield Check(name, False, str(error).splitlines()[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def graph_capture(subject: Subject) -> Iterator[Check]:
    """The encoder as a CUDA graph, which then runs on other audio of the same lengths."""
    for keep in (1.0, 0.8):
        name = f"CUDA graph of the encoder, keep {keep:g}"
        hubert = subject.hubert_on(subject.device, keep=keep)
        hubert.make_generation_fast_()
        lengths = [subject.lengths[0]] * len(subject.lengths)
        speech = subject.speech.to(subject.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                hubert(speech, lengths)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                captured = hubert(speech, lengths).x
        except RuntimeError as error:
            torch.cuda.synchronize()
            yield Check(name, False, str(error).splitlines()[0])
            continue
        speech.copy_(speech.flip(0))
        graph.replay()
        yield near(name, captured, hubert(speech, lengths).x, 1e-3)


# what needs a GPU says so
CHECKS: dict[Callable[[Subject], Iterator[Check]], bool] = {
    same_as_the_cpu: False,
    same_gradients: False,
    half_precision: False,
    alone_as_in_a_batch: False,
    without_waits: True,
    graph_capture: True,
}


def run_checks(subject: Subject) -> Iterator[Check]:
    """All checks; one that ends in an error has failed, and the next one is made."""
    for check, needs_gpu in CHECKS.items():
        name = check.__name__.replace("_", " ")
        if needs_gpu and subject.device.type != "cuda":
            yield Check(name, None, f"needs a GPU, not {subject.device.type}")
            continue
        try:
            yield from check(subject)
        except RuntimeError as error:
            yield Check(name, False, str(error).splitlines()[0])
