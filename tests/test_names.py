"""The names that scripts rely on: `import sim` has them all."""

from __future__ import annotations

import pytest


def test_every_exported_name_is_there_and_simulate_stays_a_function() -> None:
    import importlib

    import sim as package

    assert set(package.__all__) == set(package._HOME)
    for name in package.__all__:
        assert getattr(package, name) is not None
    importlib.import_module("sim.simulate")
    assert callable(package.simulate)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        package.simulat  # noqa: B018
