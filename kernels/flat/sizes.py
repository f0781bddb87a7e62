"""Segment lengths of the networks whose optimizer steps are benchmarked."""


def wrn16_8_lengths() -> list[int]:
    """WRN-16-8's parameters for 10 classes, 10.96 M in all: convolutions, BN weights and biases, the head."""
    lengths = [3 * 16 * 9]
    channels = 16
    for width in (128, 256, 512):
        for _ in range(2):
            lengths += [channels, channels, channels * width * 9, width, width, width * width * 9]
            if channels != width:
                lengths.append(channels * width)
            channels = width
    return [*lengths, channels, channels, channels * 10, 10]


def pyramidnet110_lengths() -> list[int]:
    """About PyramidNet-110 with α = 150, basic blocks, for 10 classes: 10 M in 490 segments."""
    lengths = [3 * 16 * 9, 16, 16]
    channels = 16
    for block in range(1, 55):
        width = 16 + round(150 * block / 54)
        lengths += [channels, channels, channels * width * 9, width, width, width * width * 9, width, width]
        channels = width
    return [*lengths, channels, channels, channels * 10, 10]
