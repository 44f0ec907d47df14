"""What every experiment promises, at full size: hours of training, so behind the marker `reproduce`."""

from __future__ import annotations

import pytest

from pathline.experiments.reproducing import summarise
from tests.experiments.test_tiny import NAMES, carried_out

#: Bounds that three seeds have missed; the page of each experiment says by how much and why.
KNOWN_MISSES = {
    "augmented": {"anode_growth"},
    "evolving_weights": {"digits_lock_step_gain", "digits_ahead_gain"},
    "hare_lynx": {"hybrid_to_last_cycle"},
    "spirals": {"latent_ode_to_rnn_dt_100"},
    "vowels": {"ahead_of_gru_dt"},
}


@pytest.mark.reproduce
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_the_bounds_hold_over_three_seeds(name, tmp_path):
    """The mean keeps each bound, and the worst seed misses it by a quarter at most."""
    summary = summarise([carried_out(name, tmp_path / str(seed), "default", seed) for seed in range(3)], {})
    missed = {
        metric
        for metric, found in summary["metrics"].items()
        for bound in found["expected"]
        if not (bound["met"] and bound["worst_met"])
    }
    assert missed == KNOWN_MISSES.get(name, set())
    assert not summary["missing"]
