"""Audio, a teacher and the command line for tests that distil."""

from command_lines import ROOT
from tones import write_hubert, write_tones

from fairseq_prune.data.waveform_manifest import write_waveform_manifest

LENGTHS = [6400, 8000, 7000, 6400, 9000, 6600]


def write_data(folder):
    """``folder/data`` with train.tsv and valid.tsv, and ``folder/teacher.pt``."""
    (folder / "data").mkdir()
    names = write_tones(folder / "audio", LENGTHS)
    for split in ("train", "valid"):
        write_waveform_manifest(folder / "data" / f"{split}.tsv", folder / "audio", names, LENGTHS)
    write_hubert(folder / "teacher.pt")
    return folder


def distil_arguments(folder, save_dir, *options):
    """Of fairseq-train, for a first stage that trains in a second."""
    common = (
        "--task ssl_distillation --arch dphubert --criterion distill_prune --optimizer adam_with_gates"
        " --distill-layers 0|1,2 --min-sample-size 1000 --max-sample-size 6400 --target-sparsity 0.5"
        " --sparsity-warmup-updates 4 --lr 1e-3 --gate-lr 0.1 --max-tokens 16000 --required-batch-size-multiple 1"
        " --log-format simple --log-interval 1 --no-epoch-checkpoints"
    ).split()
    paths = [
        "--user-dir",
        ROOT / "fairseq_prune",
        "--save-dir",
        save_dir,
        "--teacher-path",
        folder / "teacher.pt",
    ]
    return [folder / "data", *paths, *common, *options]
