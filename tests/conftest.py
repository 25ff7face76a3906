"""What every test runs with."""

from hypothesis import settings

# Examples are the same in every run, and no example fails for being slow: the gate must not
# depend on chance or on how busy the machine is.
settings.register_profile("gate", deadline=None, derandomize=True, database=None)
settings.load_profile("gate")
