"""Models and batches on a GPU that is not there, and a count of the waits for it.

Fake tensors (`torch._subclasses.fake_tensor`) have a device, a type and a shape, and no values. torch refuses an
operation on tensors of two devices as a GPU would. Backward passes need a real device.
"""

import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# which of its kernels for CTC torch takes: not the other libraries'
CHOICES = [
    getattr(aten, name).Tensor
    for name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss")
    if hasattr(aten, name)
]


class Gpu:
    """One pretended GPU. ``lengths``: what `.tolist()` of the lengths of a batch gives; further values are 0.

    waits: a Counter of what the host waited for, by operation.
    sent: copies to the GPU for which the host did not wait.
    """

    def __init__(self, lengths=()):
        self.fakes = FakeTensorMode(allow_non_fake_inputs=False)
        self.lengths = list(lengths)
        self.waits, self.sent = Counter(), 0
        self.pinned = []  # tensors, not ids alone: these may come again

    def forget(self):
        """Count from 0 again."""
        self.waits.clear()
        self.sent = 0

    @contextmanager
    def __call__(self):
        """Within it new tensors are fake, and waits are counted."""
        available = mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        bfloat16 = mock.patch.object(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
        values = mock.patch.object(FakeTensor, "tolist", self._values)
        # a copy of a model is on the same GPU, and a tensor is a place of its own
        copies = mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True)
        places = mock.patch.object(FakeTensor, "data_ptr", lambda fake: id(fake))
        patches = (available, bfloat16, values, copies, places)
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            for patch in patches:
                stack.enter_context(patch)
            stack.enter_context(self.fakes)
            stack.enter_context(Operations(self))
            warnings.simplefilter("ignore")
            yield self

    @property
    def _values(self):
        def tolist(fake):
            self.waits["tolist"] += fake.device.type == "cuda"
            return (self.lengths + [0] * fake.numel())[: fake.numel()]

        return tolist

    def tensor(self, tensor):
        """The fake of a real tensor, on the GPU."""
        tensor = tensor.detach()
        with self.fakes:
            return self.fakes.from_tensor(tensor).to("cuda")

    def model(self, model):
        """A model of real weights, moved to the GPU with what it hides in lists."""
        moved = {}

        def move(tensor):
            if id(tensor) not in moved:
                fake = self.tensor(tensor)
                if isinstance(tensor, nn.Parameter):
                    fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                vars(fake).update(vars(tensor))  # such as a parameter's group
                moved[id(tensor)] = fake, tensor  # the old one has to live, or its id may come again
            return moved[id(tensor)][0]

        hidden = [part for module in model.modules() for part in getattr(module, "_teacher", ())]
        for module in [*model.modules(), *(part for top in hidden for part in top.modules())]:
            for names in (module._parameters, module._buffers):
                names.update({name: move(value) for name, value in names.items() if value is not None})
            for name, value in list(vars(module).items()):
                if isinstance(value, torch.Tensor):  # the product of weight norm
                    object.__setattr__(module, name, move(value.detach()))
        return model

    def batch(self, sample):
        """A batch of real tensors as fairseq's trainer sends it: nested dicts and lists, other values as they are."""
        if isinstance(sample, torch.Tensor):
            return self.tensor(sample)
        if isinstance(sample, dict):
            return {name: self.batch(value) for name, value in sample.items()}
        return sample


class Operations(TorchDispatchMode):
    """Counts operations for which the host waits."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, waits = kwargs or {}, self.gpu.waits
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        on_gpu = any(tensor.device.type == "cuda" for tensor in tensors)
        if func is aten._local_scalar_dense.default:
            waits["item"] += on_gpu
            return {torch.bool: False}.get(args[0].dtype, 1)
        if func is aten.equal.default:
            waits["equal"] += on_gpu
            return False
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            out = args[0].clone()
            self.gpu.pinned.append(out)
            return out
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if on_gpu and func in (aten.nonzero.default, aten.masked_select.default, aten.bincount.default):
            waits[func.overloadpacket.__name__] += 1
            shapes = {
                aten.nonzero.default: (args[0].numel(), args[0].dim()),
                aten.bincount.default: ((*args, 0, 0)[2] or kwargs.get("minlength", 0),),
            }
            return args[0].new_empty(shapes.get(func, (args[0].numel(),)))
        if on_gpu and func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            if masks:
                waits["index by mask"] += 1
                return args[0] if func is not aten.index.Tensor else args[0].new_empty(masks[0].numel())
        if func is aten._ctc_loss.Tensor:
            frames, batch = args[0].shape[:2]
            return args[0].new_empty(batch), args[0].new_empty(batch, frames, 2 * args[1].shape[-1] + 1)
        if func in CHOICES:
            return False
        if func in (aten._to_copy.default, aten.copy_.default):
            self._copied(func, args, kwargs)
        return func(*args, **kwargs)

    def _is_pinned(self, tensor):
        return any(tensor is pinned for pinned in self.gpu.pinned)

    def _copied(self, func, args, kwargs):
        source = args[1] if func is aten.copy_.default else args[0]
        target = args[0].device if func is aten.copy_.default else kwargs.get("device") or source.device
        devices = source.device.type, torch.device(target).type
        if devices == ("cuda", "cpu"):
            self.gpu.waits["copy to the host"] += 1
        elif devices == ("cpu", "cuda"):
            if kwargs.get("non_blocking") and self._is_pinned(source):
                self.gpu.sent += 1
            else:
                self.gpu.waits["copy of pageable memory"] += 1


def devices_and_types(found, at="") -> dict:
    """{place: (device, type)} of all tensors in nested dicts, lists, tuples and dataclasses."""
    if isinstance(found, torch.Tensor):
        assert isinstance(found, FakeTensor), at
        return {at: (found.device.type, found.dtype)}
    if hasattr(found, "__dataclass_fields__"):
        found = vars(found)
    if isinstance(found, dict):
        items = found.items()
    elif isinstance(found, (list, tuple)):
        items = enumerate(found)
    else:
        return {}
    return {
        place: value
        for name, part in items
        for place, value in devices_and_types(part, f"{at}/{name}").items()
    }
