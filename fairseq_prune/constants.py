"""What rooms that do not import each other must agree on."""

SAMPLE_RATE = 16000  # Hz; every count of samples in this package is at this rate
