"""Two gloo processes and then a single one train on the same batches; what they found goes into a file.

python two_processes.py CASES.json FOUND.json MEETING

CASES: {name: arguments of fairseq-train}. FOUND: {name: {"pytorch_ddp", "legacy_ddp", "alone": what the functions here
return, or the message of what stopped them}}. MEETING is a file that does not exist yet.
"""

import json
import os
import sys
import threading
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel
from trainers import batches, build_trainer

PATIENCE = timedelta(seconds=60)  # with a process that something has stopped
UPDATES = 2
BACKENDS = ("pytorch_ddp", "legacy_ddp")
BATCHES = (0, 1), (2, 3)  # of the first and of the second process


def on_the_cpu(module, device_ids, output_device, **options):
    """torch's DistributedDataParallel, to which fairseq names a GPU."""
    return DistributedDataParallel(module, **options)


def updates(trainer, samples):
    """The losses of some updates, and the gradients of the last by name."""
    logs = [trainer.train_step(samples) for _ in range(UPDATES)]
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in trainer.get_model().named_parameters()
        if parameter.grad is not None
    }
    return [float(log["loss"]) for log in logs], gradients


def alone(arguments):
    """In one process: the losses, and what has no gradient though it is trained."""
    trainer = build_trainer(arguments, distributed_world_size=1)
    losses, gradients = updates(trainer, batches(trainer, *BATCHES))
    trained = [name for name, p in trainer.get_model().named_parameters() if p.requires_grad]
    return {"losses": losses, "without gradient": [name for name in trained if name not in gradients]}


def together(arguments, backend, rank):
    """In two processes: the losses, and the largest difference between their gradients."""
    trainer = build_trainer(arguments, distributed_world_size=2, ddp_backend=backend, distributed_rank=rank)
    losses, gradients = updates(trainer, batches(trainer, BATCHES[rank]))
    names = [None, None]
    dist.all_gather_object(names, sorted(gradients))
    mine = torch.cat([gradients[name].reshape(-1).float() for name in sorted(gradients)])
    both = [torch.empty_like(mine), torch.empty_like(mine)]
    dist.all_gather(both, mine)
    return {
        "losses": losses,
        "same parameters": names[0] == names[1],
        "difference": float((both[0] - both[1]).abs().max()),
        "largest": float(mine.abs().max()),
        "finite": bool(mine.isfinite().all()),
    }


def end_with_parent(held):
    """Have this process end when its parent does, which alone holds the other end of the pipe ``held``."""

    def wait():
        os.read(held, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(cases, found, meeting):
    torch.set_num_threads(1)
    ours, parents = os.pipe()
    child = os.fork()
    rank = 0 if child else 1
    if rank:
        os.close(parents)
        end_with_parent(ours)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for the rest of its life)
    distributed_fairseq_model.DistributedDataParallel = on_the_cpu
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=PATIENCE
    )
    results = {}
    for name, arguments in json.loads(Path(cases).read_text(encoding="utf-8")).items():
        runs = {backend: partial(together, arguments, backend, rank) for backend in BACKENDS}
        if not rank:
            runs["alone"] = partial(alone, arguments)
        results[name] = {}
        for run, function in runs.items():
            try:
                results[name][run] = function()
            except Exception:  # told to the test of this case, which fails by it
                results[name][run] = traceback.format_exc()
        if not rank:
            Path(found).write_text(json.dumps(results), encoding="utf-8")
    if not rank:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
