"""Hypothesis profiles of the flow's property tests.

`default` is repeatable and takes half a minute; `pytest tests/flows/test_properties.py --hypothesis-profile=thorough` looks for more, with other
examples each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)

settings.register_profile("default", deadline=None, derandomize=True, max_examples=40, suppress_health_check=_QUIET)
settings.register_profile("thorough", deadline=None, max_examples=1000, suppress_health_check=_QUIET, print_blob=True)
settings.load_profile("default")
