"""Activations that are computed again: the same gradients, and less that is kept for them."""

import ctypes
import multiprocessing
from pathlib import Path

import pytest
import torch
from small_encoder import make_encoder

from fairseq_prune.benchmarks.device_checks import build_translator
from fairseq_prune.benchmarks.measure import resident
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.gated import Gating

ENCODERS = {
    "base": lambda: make_encoder(),
    "large": lambda: make_encoder("large"),
    "wavlm": lambda: make_encoder(relative_buckets=32, relative_distance=64),
    "gated": lambda: build_encoder(architecture_of(make_encoder()), gating=Gating(), dropout=0.1),
    **{
        criterion: lambda criterion=criterion: with_pruning(criterion)
        for criterion in ("received", "random", "merge")
    },
}


def with_pruning(criterion):
    encoder = make_encoder()
    encoder.pruning = TokenPruning([0.8, 0.7], criterion)
    return encoder


def gradients_and_bytes(encoder, again):
    """All gradients of a pass in training, and the bytes that it kept for them."""
    encoder.checkpoint_activations = again
    encoder.train().zero_grad(set_to_none=True)
    torch.manual_seed(3)
    waveforms, kept = torch.randn(2, 12000), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = encoder(waveforms, [12000, 9000]).x
    out.square().sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_the_same_and_less_is_kept(name):
    encoder = ENCODERS[name]()
    plain, kept = gradients_and_bytes(encoder, False)
    again, kept_again = gradients_and_bytes(encoder, True)
    assert plain.keys() == again.keys() and len(plain) > 20
    for parameter, gradient in plain.items():
        torch.testing.assert_close(again[parameter], gradient, rtol=1e-4, atol=1e-5, msg=parameter)
    assert kept_again < 0.5 * kept


def memory_of_a_pass(again):
    """MiB of a pass forth and back of HuBERT base with 30 s of audio: kept for the gradients, and the peak.

    The peak is beyond the weights and their gradients.
    """
    torch.set_num_threads(1)
    hubert = build_translator({"hubert_checkpoint_activations": again}).encoder.hubert.train()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() / 2**20
        return tensor

    def loss(samples):
        return hubert(torch.randn(1, samples), [samples]).x.square().sum()

    loss(16_000).backward()  # gradients are there
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = resident("VmRSS")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = loss(480_000)
    out.backward()
    return sum(kept.values()), resident("VmHWM") - before


@pytest.mark.slow
def test_the_memory_of_the_published_size():
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        (kept, peak), (kept_again, peak_again) = (pool.apply(memory_of_a_pass, (on,)) for on in (False, True))
    print(f"HuBERT base, 30 s: {kept:,.0f} MiB kept for the gradients, peak {peak:,.0f} MiB")
    print(f"with activations computed again: {kept_again:,.0f} MiB, peak {peak_again:,.0f} MiB")
    assert kept_again < 0.5 * kept and peak_again < peak
