"""The one file that knows fairseq, torch, torchaudio and hydra versions."""


def install():
    """Make fairseq work on the installed stack; safe to call again."""
