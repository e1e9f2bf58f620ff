"""The sprite world's motion module of few steps: how it is distilled, and what that costs and saves."""
