"""What rooms that do not import each other must agree on."""

SAMPLE_RATE = 16000  # Hz; every count of samples in this package is at this rate
TOKEN_PRUNING = (
    "token_pruning"  # the entry of a config.json of transformers that says which frames are dropped
)
