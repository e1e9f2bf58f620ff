"""DPM-Solver++ 2M under strong guidance: with few steps it loses the colours.

A step of the second order goes on as the last two predictions differ. Towards the end the steps of evenly spread
timesteps grow in the logarithm of the signal-to-noise ratio, and guidance multiplies the difference: what is left of it
is added to the picture. diffusers' own pipeline does the same. In the sprite world, 100 stills, the colour is right in

| steps | guidance 2 | 5 | 8 |
|---|---|---|---|
| 8 | | 20 % | |
| 12 | 98 % | 66 % | 17 % |
| 16 | | 99 % | |
| 25 | | 100 % | 72 % |

and in all of them with 12 steps of the first order, of DDIM or of Euler, and with 8 whose last half is not guided.
"""

import math
from collections.abc import Mapping
from typing import Any

_STEPS_PER_GUIDANCE = 3.2  # what of the table is below loses more than a fifth, and what is above next to nothing
_LAST = 0.75  # share of the steps behind which no guidance is left to be multiplied: 8 steps were right


def too_few_steps(settings: Mapping[str, Any]) -> int | None:
    """Return how many steps dpmpp_2m needs at least under its guidance; None where it has them.

    Args:
        settings: fields of `RenderSettings`.
    """
    interval, scale = settings["guidance_interval"], settings["guidance_scale"]
    if settings["sampler"] != "dpmpp_2m" or scale <= 1 or (interval and interval.end <= _LAST):
        return None
    least = math.ceil(_STEPS_PER_GUIDANCE * scale)
    return least if settings["num_inference_steps"] < least else None
