"""fairseq's trainer on command line options, without its command line."""

from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer


def build_trainer(arguments, **distributed):
    """The trainer that fairseq-train would build of these arguments, its train subset loaded.

    Args:
        distributed: options of fairseq's section distributed_training.
    """
    args = options.parse_args_and_arch(options.get_training_parser(), [str(word) for word in arguments])
    cfg = convert_namespace_to_omegaconf(args)
    cfg.common.cpu = True
    utils.set_torch_seed(cfg.common.seed)
    for name, value in distributed.items():
        cfg.distributed_training[name] = value
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    task.load_dataset("train")
    trainer.begin_epoch(1)
    return trainer


def batches(trainer, *indices):
    """A batch of each tuple of places in the train subset."""
    dataset = trainer.task.dataset("train")
    dataset.set_epoch(1)
    return [dataset.collater([dataset[place] for place in places]) for places in indices]
