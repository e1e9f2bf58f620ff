"""Hide peft from diffusers in the jobs' processes, as it is where nobody installs the tests' own packages.

Python imports this module where its folder is on PYTHONPATH. diffusers imports peft wherever it finds it, and each of
the hundred and more processes of the integration tests would take a second of CPU for it.
"""

import importlib.util

_find_spec = importlib.util.find_spec


def _find_spec_but_pefts(name, package=None):
    return None if name == "peft" else _find_spec(name, package)


importlib.util.find_spec = _find_spec_but_pefts
