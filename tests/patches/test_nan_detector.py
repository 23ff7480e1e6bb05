"""What fairseq's search for a gradient that is not finite finds in modules of this package."""

from types import SimpleNamespace

import pytest
import torch
from small_speech_model import make_model, speech

from fairseq_prune.patches.nan_detector import Detector, _in_one_line, ids_of


class Poison(torch.autograd.Function):
    """Nothing forward, NaN backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def run(model):
    net_input = {**speech(8000, 6000), "prev_output_tokens": torch.tensor([[2, 5, 6], [2, 7, 8]])}
    model(**net_input)[0].sum().backward()


@pytest.mark.parametrize("backward", [False, True])
def test_the_first_module_is_named_where_modules_return_frames(backward):
    model = make_model(ctc=True).train()
    fc1 = model.encoder.hubert.encoder.layers[0].fc1
    spoil = Poison.apply if backward else (lambda x: x * float("nan"))
    fc1.register_forward_hook(lambda module, inputs, output: spoil(output))
    with Detector(model):
        run(model)
    direction = "backward" if backward else "forward"
    assert Detector.found.startswith("NaN detected in output of encoder.hubert.encoder.layers.0.")
    assert Detector.found.endswith(direction)


def test_nothing_is_found_where_nothing_is():
    model = make_model().train()
    with Detector(model):
        run(model)
    assert Detector.found is None
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any(getattr(hook, "__self__", None).__class__ is Detector for hook in hooks)


def test_the_error_is_one_line_with_the_utterances():
    def fails(trainer, samples):
        Detector.found = "NaN detected in output of encoder"
        raise FloatingPointError("gradients are\n Nan/Inf")

    samples = [{"id": torch.tensor([4, 17])}, {}, {"id": torch.tensor([3])}]
    with pytest.raises(ValueError) as error:
        _in_one_line(fails)(SimpleNamespace(get_num_updates=lambda: 12), samples)
    assert str(error.value) == (
        "update 13: gradients are Nan/Inf: NaN detected in output of encoder;"
        " utterances (rows of the data, from 0): 4, 17, 3; crash.pt has the state"
    )


def test_many_utterances_are_counted():
    assert ids_of([{"id": torch.arange(50)}]).endswith("18, 19 and 30 more")
