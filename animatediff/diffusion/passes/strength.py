"""How many steps a strength is: read where torch is not."""


def num_kept_steps(num_inference_steps: int, strength: float) -> int:
    """Return how many denoising steps are taken at a strength: rounded down, as other programs do."""
    return min(int(num_inference_steps * strength), num_inference_steps)
