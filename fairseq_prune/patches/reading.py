"""What is wrong with a checkpoint that fairseq is to read is one line that names the file.

Damaged and foreign files end in tracebacks of many kinds otherwise, or are read as if nothing were wrong.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.models.hubert.hubert_asr import HubertEncoder
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecEncoder
from fairseq.tasks.audio_finetuning import AudioFinetuningTask
from fairseq.trainer import Trainer

from fairseq_prune.checkpoints.integrity import check_records
from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    model_and_task_options,
    readable_errors,
    usable,
)
from fairseq_prune.compat import fills_itself
from fairseq_prune.text.lines import read_text


def install() -> None:
    """Check what fairseq loads; safe to call again."""
    if hasattr(checkpoint_utils.load_checkpoint_to_cpu, "checks"):
        return
    checkpoint_utils.load_checkpoint_to_cpu = _checked(checkpoint_utils.load_checkpoint_to_cpu)
    checkpoint_utils.load_model_ensemble_and_task = _use(
        checkpoint_utils.load_model_ensemble_and_task, lambda filenames, *_, **__: ":".join(filenames)
    )
    Trainer.load_checkpoint = _use(Trainer.load_checkpoint, lambda trainer, filename, *_, **__: filename)
    checkpoint_utils.load_checkpoint = _refuse_missing(checkpoint_utils.load_checkpoint)
    AudioFinetuningTask.load_dataset = _lines_of_labels(AudioFinetuningTask.load_dataset)
    HubertEncoder.__init__ = _whole(HubertEncoder.__init__)
    for encoder in (Wav2VecEncoder, HubertEncoder):
        encoder.__init__ = _use(encoder.__init__, lambda encoder, cfg, *_, **__: cfg.w2v_path)


def _checked(load_checkpoint_to_cpu):
    @functools.wraps(load_checkpoint_to_cpu)
    def load(path, *args, **options):
        if checkpoint_utils.PathManager.path_requires_pathmanager(path):  # not on this machine
            return load_checkpoint_to_cpu(path, *args, **options)
        with readable_errors(path):
            check_records(path)
            state = load_checkpoint_to_cpu(path, *args, **options)
            if state.get("cfg") or state.get("args"):
                model_and_task_options(state, path)  # checks sizes
        return state

    load.checks = True
    upgrade = checkpoint_utils._upgrade_state_dict
    checkpoint_utils._upgrade_state_dict = functools.wraps(upgrade)(lambda state: upgrade(_of_fairseq(state)))
    return load


def _of_fairseq(state):
    """A file's content before fairseq brings it up to date."""
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        found = list(state)[:5] if isinstance(state, Mapping) else type(state).__name__
        raise TypeError(f"found {found}, expected the weights of a model under 'model'")
    return state


def _use(function, path_of):
    """A function that builds a model from a checkpoint and gives it its weights."""

    @functools.wraps(function)
    def use(*args, **options):
        with usable(path_of(*args, **options)):
            return function(*args, **options)

    return use


def _whole(construct):
    """fairseq leaves a HuBERT's weights as random as they are where the file has none."""

    @functools.wraps(construct)
    def build(encoder, cfg, *args, **options):
        begins = cfg.w2v_args is None and not cfg.no_pretrained_weights  # fairseq fills w2v_args
        construct(encoder, cfg, *args, **options)
        if begins:
            given = load_checkpoint_file(cfg.w2v_path, mmap=True)["model"]
            missing = [
                name
                for name in encoder.w2v_model.state_dict()
                if name not in given and not fills_itself(name)
            ]
            if missing:
                raise ValueError(
                    f"{cfg.w2v_path}: {len(missing)} weights are missing: {', '.join(missing[:5])}"
                )

    return build


def _lines_of_labels(load_dataset):
    """fairseq says neither which file of labels is no text nor where."""

    @functools.wraps(load_dataset)
    def load(task, split, *args, **options):
        if task.cfg.labels:
            read_text(Path(task.cfg.data) / f"{split}.{task.cfg.labels}", "file of labels")
        return load_dataset(task, split, *args, **options)

    return load


def _refuse_missing(load_checkpoint):
    @functools.wraps(load_checkpoint)
    def load(cfg, trainer, **options):
        option, name = "--restore-file", cfg.restore_file
        if name == "checkpoint_last.pt":  # which is not given, and may be there from an earlier run
            first = not (Path(cfg.save_dir) / name).exists()
            option, name = "--finetune-from-model", cfg.finetune_from_model if first else None
        if name and not trainer.checkpoint_suffix and "://" not in name and not Path(name).is_file():
            # fairseq begins anew, without a word of warning
            raise FileNotFoundError(f"{option} {name}: no such checkpoint")
        return load_checkpoint(cfg, trainer, **options)

    return load
