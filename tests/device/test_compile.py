"""torch.compile takes the encoder whole, for audio of any length, also where layers drop frames."""

import pytest
import torch
from small_encoder import make_encoder

from fairseq_prune.compat import LEGACY
from fairseq_prune.modules.frames import TokenPruning

if LEGACY:
    pytest.skip("torch.compile of torch 2.0 does not take fairseq's modules whole", allow_module_level=True)


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("form", ["base", "large"])
@pytest.mark.parametrize(
    "criterion, keep", [("received", 1.0), ("received", 0.7), ("uniform", 0.7), ("norm", 0.7)]
)
def test_the_encoder_is_one_graph_with_equal_outputs(form, criterion, keep):
    encoder = make_encoder(form)
    encoder.make_generation_fast_()
    encoder.pruning = TokenPruning([1.0, keep], criterion)
    torch._dynamo.reset()

    def encode(waveforms, lengths):
        return encoder(waveforms, lengths).x

    # the graphs alone, without the code that inductor would write of them
    compiled = torch.compile(encode, backend="aot_eager", fullgraph=True)
    for lengths in ([8000, 8000], [9000, 7000]):
        waveforms = torch.randn(2, max(lengths))
        with torch.no_grad():
            found, expected = compiled(waveforms, lengths), encoder(waveforms, lengths)
        for row, frames in enumerate(expected.lengths):  # padding may differ: kernels skip it
            torch.testing.assert_close(found[row, :frames], expected.x[row, :frames], rtol=1e-4, atol=1e-4)
