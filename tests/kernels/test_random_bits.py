"""Random bits by counter: the published generator, whatever the order."""

import torch

from fusedface.kernels.interface.random_bits import GAMMA, mix, random_bits


def test_splitmix64_of_the_published_code():
    """First outputs of SplitMix64 seeded with 0, from its authors' code."""
    state = torch.tensor([GAMMA])
    outputs = [mix(state * k).item() % 2**64 for k in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_bits_are_of_the_seed_and_the_number():
    seed, numbers = torch.tensor(5), torch.arange(1000)
    bits = random_bits(seed, numbers)
    assert torch.equal(random_bits(seed, numbers[500:]), bits[500:])
    assert len({*bits.tolist(), *random_bits(seed + 1, numbers).tolist()}) == 2000
    ones = ((bits[:, None] >> torch.arange(64)) & 1).double().mean(dim=0)
    assert (ones - 0.5).abs().max() < 0.08  # five deviations
