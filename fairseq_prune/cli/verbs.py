"""What ``fairseq-prune`` can do: a row of the table for each verb."""

from collections.abc import Mapping
from typing import NamedTuple, Optional

from fairseq_prune.cli.programs import first_line, folder


class Verb(NamedTuple):
    """help: one line. Then one of: program, of scripts/ or data_prep/; function, as module:name; verbs below it.

    A program may have words of its own before the arguments. A function takes the verb's full name and the arguments
    after it, and returns the exit status.
    """

    help: str
    program: Optional[str] = None
    function: Optional[str] = None
    verbs: Mapping[str, "Verb"] = {}
    words: tuple[str, ...] = ()


def preparations() -> dict[str, Verb]:
    """A verb for each data_prep/prep_NAME.py, and the demo's corpus."""
    found = {path.stem[len("prep_") :]: path for path in sorted(folder("data_prep").glob("prep_*.py"))}
    found["demo"] = folder("data_prep") / "make_demo_corpus.py"
    return {name: Verb(first_line(path), f"data_prep/{path.name}") for name, path in found.items()}


VERBS = {
    "translate": Verb("translate audio files with a trained checkpoint", "scripts/translate.py"),
    "transcribe": Verb("write what is said in audio files", "scripts/transcribe.py"),
    "understand": Verb("intent and slots of spoken commands", "scripts/understand.py"),
    "features": Verb("hidden states of an encoder, as files", "scripts/extract_features.py"),
    "prepare": Verb("make a data folder of a corpus", verbs=preparations()),
    "prune-tokens": Verb(
        "drop frames in the encoder: find out how many",
        verbs={
            "sweep": Verb("quality and speed by keep ratio", "scripts/sweep_pruning.py"),
            "plan": Verb("keep ratios of the layers for a budget", "scripts/plan_pruning.py"),
            "show": Verb("which frames of an utterance stay, as a picture", "scripts/show_pruning.py"),
        },
    ),
    "prune-weights": Verb(
        "sparse weights: make them, look at them, finalise them",
        verbs={
            "one-shot": Verb("set weights to zero without training", "scripts/prune_weights.py"),
            "plan": Verb("how much each component can lose", "scripts/plan_sparsity.py"),
            **{
                word: Verb(text, "scripts/sparsity.py", words=(word,))
                for word, text in (
                    ("report", "the share of weights that are zero, by layer and kind"),
                    ("overlap", "how much the masks of two checkpoints have in common"),
                    ("finalize", "a checkpoint for inference, on request smaller on the disk"),
                    ("apply-mask", "the zeros of a checkpoint, in the weights of another"),
                )
            },
        },
    ),
    "prune-vocab": Verb("cut a vocabulary to what texts need", "scripts/prune_vocab.py"),
    "preview-output": Verb(
        "let a decoder look at the likeliest tokens alone in full", "scripts/preview_output.py"
    ),
    "prune-layers": Verb("leave out layers, heads or units", "scripts/prune_layers.py"),
    "distil": Verb(
        "a small model that learns from a large one",
        verbs={
            "train": Verb(
                "train a student (DPHuBERT), of a configuration", function="fairseq_prune.cli.distil:main"
            ),
            "compress": Verb("cut what the training has gated off", "scripts/compress_hubert.py"),
            "compress-whisper": Verb("the same of a Whisper", "scripts/compress_whisper.py"),
        },
    ),
    "average": Verb("average the weights of several checkpoints", "scripts/average_checkpoints.py"),
    "export": Verb("write a model for another library", "scripts/export.py"),
    "import": Verb("make a checkpoint of another library's Whisper", "scripts/import_whisper.py"),
    "bench": Verb("measure speed, memory and size", "scripts/benchmark.py"),
    "check-gpu": Verb("check a GPU, and measure speed and memory on it", "scripts/gpu_check.py"),
    "score": Verb("scores of spoken language understanding", "scripts/score_slu.py"),
    "info": Verb("what a file is, and what can be done with it", function="fairseq_prune.cli.info:main"),
    "kernels": Verb(
        "how inference computes on this processor, and how fast", function="fairseq_prune.cli.kernels:main"
    ),
    "options": Verb(
        "all options of a model, task or criterion of this package", function="fairseq_prune.cli.options:main"
    ),
}
