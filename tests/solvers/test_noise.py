"""Counter-based noise: the hash, independence from the batch, and the distribution.

Statistical bounds: a standardised mean of n >> 1 terms is normal, so |z| < 5 holds with
probability 1 - 6e-7; a Kolmogorov-Smirnov distance satisfies P(sqrt(n) D > x) <= 2 exp(-2 x^2)
(Massart), 1e-6 at x = 2.7. Seeds are fixed, so the tests do not flicker.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from solvers import NoiseSource, sample_seeds

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def reference(seed: int, stream: int, size: int, index: int) -> list[float]:
    """The documented definition, in Python's integers and floats."""
    word = mix((seed + stream * GOLDEN) % WORD)
    gamma = mix((word + GOLDEN) % WORD) | 1
    if bin(gamma ^ (gamma >> 1)).count("1") < 24:
        gamma ^= 0xAAAAAAAAAAAAAAAA
    first = mix((word + 2 * GOLDEN) % WORD)
    n = (size + 1) // 2
    cosines, sines = [], []
    for i in range(n):
        bits = mix((first + (index * n + i) * gamma) % WORD)
        a, b = ((half + 2**31) % 2**32 - 2**31 for half in (bits % 2**32, bits >> 32))
        radius = math.sqrt(-2 * math.log(min(1.0, abs(a) / 2**31 + 2**-32)))
        cosines.append(radius * math.cos(math.pi * b / 2**31))
        sines.append(radius * math.sin(math.pi * b / 2**31))
    return (cosines + sines)[:size]


def test_splitmix64_has_its_published_outputs() -> None:
    # First outputs of the reference implementation (S. Vigna, splitmix64.c) from state 1234567.
    state = 1234567
    for expected in (6457827717110365317, 3203168211198807973, 9817491932198370423):
        state = (state + GOLDEN) % WORD
        assert mix(state) == expected


@pytest.mark.parametrize("seed", [0, 1, -5, 2**62 + 12345])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_normals_are_the_documented_function_of_seed_and_step(seed: int, size: int) -> None:
    for stream in (0, 3):
        source = NoiseSource([seed], (size,), stream=stream)
        for index in (0, 1, 100, 5000):
            expected = torch.tensor(reference(seed, stream, size, index))
            # float32: the angle is rounded to 2^-24 of pi, and radii go up to 6.7.
            torch.testing.assert_close(
                source.normal(index)[0], expected, rtol=1e-5, atol=4e-6, check_dtype=False
            )


@pytest.mark.parametrize("shape", [(), (2,), (3, 5), (784,)])
def test_a_sample_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    seeds = sample_seeds(7, 70)
    together = NoiseSource(seeds, shape)
    order = torch.randperm(70)
    permuted = NoiseSource(seeds[order], shape)
    alone = NoiseSource(seeds[[41]], shape)
    some = together.select(np.array([3, 41]))
    for index in (0, 5, 77, 6):  # backwards as well
        normals = together.normal(index)
        assert normals.shape == (70, *shape)
        assert torch.equal(permuted.normal(index), normals[order])
        assert torch.equal(alone.normal(index), normals[[41]])
        assert torch.equal(some.normal(index), normals[[3, 41]])


def test_selection_in_the_middle_of_a_block_goes_on_with_it() -> None:
    source = NoiseSource(sample_seeds(0, 4), (2,))
    source.normal(0)
    rows = np.array([2, 0])
    chosen = source.select(rows)
    assert torch.equal(chosen.normal(1), source.normal(1)[rows])
    assert torch.equal(chosen.select(np.array([1])).normal(900), source.normal(900)[[0]])


def test_other_types_see_the_same_noise(device: torch.device) -> None:
    seeds = sample_seeds(0, 8)
    single = NoiseSource(seeds, (5,), device=device).normal(2)
    assert single.device.type == device.type
    double = NoiseSource(seeds, (5,), dtype=torch.float64).normal(2)
    assert torch.equal(double, single.cpu().double())


def test_seeds_of_a_run_do_not_depend_on_how_it_is_cut() -> None:
    seeds = sample_seeds(5, 100)
    assert torch.equal(torch.cat([sample_seeds(5, 30), sample_seeds(5, 70, start=30)]), seeds)
    assert len(set(seeds.tolist() + sample_seeds(6, 100).tolist())) == 200


def test_normals_are_standard_normal() -> None:
    source = NoiseSource(sample_seeds(0, 500), (97,))
    x = np.stack([source.normal(k).numpy() for k in range(20)]).astype(np.float64).ravel()
    n = len(x)
    assert stats.kstest(x, "norm").statistic * math.sqrt(n) < 2.7
    # Moments 1 to 4: mean 0, 1, 0, 3; variances of x^p are E x^2p - (E x^p)^2 = 1, 2, 15, 96.
    for power, (mean, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs((x**power).mean() - mean) < 5 * math.sqrt(variance / n)
    assert np.abs(x).max() < math.sqrt(64 * math.log(2)) + 1e-5


def test_samples_steps_elements_and_streams_are_uncorrelated() -> None:
    seeds = np.arange(1000)  # neighbouring seeds: the worst case for a weak hash
    x, other = (
        torch.stack([source.normal(k) for k in range(16)]).double()
        for source in (NoiseSource(seeds, (33,)), NoiseSource(seeds, (33,), stream=1))
    )
    pairs = {"stream": (x, other)}
    for lag in (1, 2, 3, 8):
        pairs[f"step {lag}"] = x[:-lag], x[lag:]
        pairs[f"sample {lag}"] = x[:, :-lag], x[:, lag:]
        pairs[f"element {lag}"] = x[..., :-lag], x[..., lag:]
    pairs["cosine and sine"] = x[..., :16], x[..., 17:]
    for name, (a, b) in pairs.items():
        # Products of independent normals have variance 1; of their centred squares, 4.
        assert abs((a * b).mean()) < 5 / math.sqrt(a.numel()), name
        assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 10 / math.sqrt(a.numel()), name


@pytest.mark.parametrize("seeds", [torch.zeros(3), [[1, 2]], [0.5], torch.tensor(3)])
def test_seeds_must_be_a_vector_of_integers(seeds: object) -> None:
    with pytest.raises(ValueError, match="one integer per sample"):
        NoiseSource(seeds, (2,))  # type: ignore[arg-type]
