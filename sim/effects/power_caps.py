"""Whether a limit of watts made any step longer: where one drew as much as it allows."""

from __future__ import annotations

import numpy as np

from sim.effects.rules import Use
from sim.energy import energy_of, stage_number
from sim.results.energy import Energy
from sim.results.key_words import ACTED, DidNotBind, Word

AT_THE_CAP = 1.0 - 1e-6


def power_cap(use: Use) -> Word:
    """A limit acts where a step drew what it allows."""
    ran = use.ran
    energy = energy_of(ran.scenario, ran.deployment, ran.records, ran.link_rows, ran.end_s)
    assert isinstance(energy, Energy)  # a cap of a GPU without watts is refused
    hottest = 0.0
    for plan in ran.deployment.replicas:
        for stage, shard in enumerate(plan.shards):
            drawn = energy.row_w[energy.row_stage == stage_number(plan.index, stage)]
            most = float(np.max(drawn, initial=0.0))
            if shard.power_cap_w is not None and most >= AT_THE_CAP * shard.power_cap_w:
                return ACTED
            hottest = max(hottest, most)
    return DidNotBind(f"the hottest step drew {hottest:.0f} W a GPU")
