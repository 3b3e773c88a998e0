"""Settings of the suite."""

from hypothesis import HealthCheck, settings

# no deadline: a test that is slow once, on a busy machine, is not wrong
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
settings.load_profile("suite")
