"""Hide from diffusers in the jobs' processes what it would import for no use of theirs.

Python imports this module where its folder is on PYTHONPATH. diffusers and transformers import peft, accelerate and
half of SciPy wherever they find them, for which each of the hundred and more processes of these tests would take two
seconds of CPU for it. The first two are the tests' own packages; `import scipy` finds SciPy as ever.
"""

import importlib.util

_find_spec = importlib.util.find_spec


def _find_spec_of_the_jobs_own(name, package=None):
    return None if name in ("accelerate", "peft", "scipy") else _find_spec(name, package)


importlib.util.find_spec = _find_spec_of_the_jobs_own
