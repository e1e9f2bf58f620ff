"""Hours of work and what they cost, as a dry run tells them."""


def duration(hours: float) -> str:
    """Return a time in hours, or in minutes below one hour."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def cost(hours: float, num_workers: int, usd_per_hour: float | None) -> str:
    """Return what follows the time in a sentence; empty where no price is known."""
    return "" if usd_per_hour is None else f", {hours * num_workers * usd_per_hour:,.2f} USD"
