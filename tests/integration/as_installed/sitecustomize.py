"""Hide peft and what came with it from diffusers in the jobs' processes, as where nobody has the tests' own packages.

Python imports this module where its folder is on PYTHONPATH. diffusers imports both wherever it finds them, and each of
the hundred and more processes of the integration tests would take more than a second of CPU for it.
"""

import importlib.util

_find_spec = importlib.util.find_spec


def _find_spec_of_the_jobs_own(name, package=None):
    return None if name in ("accelerate", "peft") else _find_spec(name, package)


importlib.util.find_spec = _find_spec_of_the_jobs_own
