"""The main job through fairseq's command lines: train, generate, interrupt, resume."""

import re
import signal

import pytest
import torch
from command_lines import ROOT, run, started, train_arguments

from fairseq_prune.checkpoints.loading import load_checkpoint_file


def generate_arguments(data, checkpoint, *options):
    return [
        *(data, "--user-dir", ROOT / "fairseq_prune", "--task", "speech_translation", "--path", checkpoint),
        *("--gen-subset", "tst-COMMON", "--max-tokens", 160000, "--scoring", "sacrebleu", "--beam", 2),
        *("--max-len-b", 12, *options),
    ]


def translations(output):
    return dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, flags=re.MULTILINE))


def test_generation_needs_no_flags_of_the_training(trained, prepared_data, tmp_path):
    code, output = run("fairseq-generate", *generate_arguments(prepared_data, trained), cwd=tmp_path)
    assert code == 0, output
    assert "BLEU = " in output and len(translations(output)) == 6


def test_batch_size_does_not_change_translations(trained, prepared_data, tmp_path):
    together = run("fairseq-generate", *generate_arguments(prepared_data, trained), cwd=tmp_path)[1]
    one_by_one = generate_arguments(prepared_data, trained, "--max-sentences", 1)
    assert translations(run("fairseq-generate", *one_by_one, cwd=tmp_path)[1]) == translations(together)


def test_removed_pieces_and_any_flag_for_bleu_give_the_same_texts_and_score(trained, prepared_data, tmp_path):
    """Most recipes with sentencepiece have --remove-bpe; --sacrebleu alone leaves fairseq's scorer of pieces."""
    flags = "--scoring bleu --sacrebleu --remove-bpe sentencepiece".split()
    outputs = [
        run("fairseq-generate", *generate_arguments(prepared_data, trained, *more), cwd=tmp_path)[1]
        for more in ([], flags, flags[:2])
    ]
    texts, removed, default = map(translations, outputs)
    assert len(texts) == 6 and texts == removed == default
    assert "\u2581" not in "".join(re.findall(r"^H-.*$", outputs[1], flags=re.MULTILINE))
    scores = [re.search(r"beam=2: (BLEU = .*)$", output, flags=re.MULTILINE)[1] for output in outputs]
    assert len(set(scores)) == 1


def test_pruning_can_be_overridden_at_generation(trained, prepared_data, tmp_path):
    overrides = "{'token_keep_ratio': 0.0}"
    arguments = generate_arguments(prepared_data, trained, "--model-overrides", overrides)
    code, output = run("fairseq-generate", *arguments, cwd=tmp_path)
    assert code != 0 and output.strip().endswith("found 0.0, expected a share of frames to keep in (0, 1]")
    arguments = generate_arguments(prepared_data, trained, "--model-overrides", "{'token_keep_ration': 0.5}")
    code, output = run("fairseq-generate", *arguments, cwd=tmp_path)
    assert code != 0 and output.strip().endswith("has no option 'token_keep_ration' that could be overridden")
    overrides = "{'token_keep_ratio': 0.5, 'token_keep_criterion': 'merge'}"
    arguments = generate_arguments(prepared_data, trained, "--model-overrides", overrides)
    assert run("fairseq-generate", *arguments, cwd=tmp_path)[0] == 0


def test_utterances_that_pruning_leaves_too_short_for_ctc_are_logged(prepared_data, tmp_path):
    options = "--ctc-text source --ctc-weight 1 --token-keep-ratio 0.2 --max-update 1".split()
    code, output = run("fairseq-train", *train_arguments(prepared_data, "out", *options), cwd=tmp_path)
    assert code == 0, output
    shares = [float(share) for share in re.findall(r"train_inner.*ctc_infeasible=([\d.]+)", output)]
    assert shares and all(0 < share <= 1 for share in shares)


# all that is drawn in training, or changes with its updates
DRAWN = (
    "--token-keep-ratio 0.6 --token-keep-warmup-updates 8 --concat-rate 0.5 --speed-factors 0.9,1.0,1.1"
    " --hubert-layerdrop 0.3 --mask-prob 0.5 --mask-length 3 --mask-channel-prob 0.3 --mask-channel-length 4"
).split()


def updates(output):
    """The update numbers that fairseq-train logged."""
    return [int(n) for n in re.findall(r"train_inner.*num_updates=(\d+)", output)]


def weights(path):
    return load_checkpoint_file(path)["model"]


def test_a_resumed_run_ends_with_the_same_weights(prepared_data, tmp_path):
    code, output = run(
        "fairseq-train",
        *train_arguments(prepared_data, "straight", *DRAWN, "--max-update", 6, "--save-interval-updates", 3),
        cwd=tmp_path,
    )
    assert code == 0, output
    middle = next((tmp_path / "straight").glob("checkpoint_*_3.pt"))
    code, output = run(
        "fairseq-train",
        *train_arguments(prepared_data, "resumed", *DRAWN, "--max-update", 6, "--restore-file", middle),
        cwd=tmp_path,
    )
    assert code == 0, output
    assert updates(output) == [4, 5, 6]
    straight, resumed = (weights(tmp_path / run / "checkpoint_last.pt") for run in ("straight", "resumed"))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value)


def test_training_that_is_interrupted_goes_on_from_its_last_checkpoint(prepared_data, tmp_path):
    saving = ["--save-interval-updates", 2, "--no-epoch-checkpoints"]
    arguments = train_arguments(prepared_data, "out", *saving, *DRAWN)
    with started("fairseq-train", *arguments, "--max-update", 10000, cwd=tmp_path) as process:
        for line in process.stdout:
            if "num_updates=7" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=240)
    assert process.returncode != 0
    saved = load_checkpoint_file(tmp_path / "out" / "checkpoint_last.pt")["optimizer_history"][-1][
        "num_updates"
    ]
    assert saved >= 6
    code, output = run("fairseq-train", *arguments, "--max-update", saved + 3, cwd=tmp_path)
    assert code == 0, output
    assert updates(output) == [saved + 1, saved + 2, saved + 3]


def test_text_and_speech_train_together_from_a_text_model(prepared_data, tmp_path):
    code, output = run(
        "fairseq-train",
        *train_arguments(
            prepared_data, "out", "--max-update", 3, "--text-encoder", "--deltalm-encoder-layers", 1
        ),
        *("--mt-loss-weight", 0.5, "--no-epoch-checkpoints"),
        cwd=tmp_path,
    )
    assert code == 0, output
    assert "mt_loss" in output
    checkpoint = tmp_path / "out" / "checkpoint_last.pt"
    code, output = run("fairseq-generate", *generate_arguments(prepared_data, checkpoint), cwd=tmp_path)
    assert code == 0, output


@pytest.mark.parametrize("option", ["--ctc-weight", "--mt-loss-weight"])
def test_a_loss_without_its_part_of_the_model_is_refused(option, prepared_data, tmp_path):
    arguments = train_arguments(prepared_data, "out", option, 1.0, "--max-update", 1)
    code, output = run("fairseq-train", *arguments, cwd=tmp_path)
    assert code != 0
    assert output.strip().splitlines()[-1].startswith("error:") and "Traceback" not in output
