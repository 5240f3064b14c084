"""Settings of all tests."""

import os

from hypothesis import settings

# Where a landing is decided the same examples are tried each time; elsewhere new ones are looked for.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
