"""What checkpoints predict, as they say themselves: asked of all of a catalog's at once."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from animatediff.errors import UserError
from animatediff.weights import prediction
from animatediff.weights.prediction import Prediction

_NUM_THREADS = 16  # they wait for storage


def read_predictions(uris: Iterable[str]) -> dict[str | None, Prediction | None]:
    """Return what checkpoints say, files or folders, by URI; None where it is nothing, or they cannot be read."""
    distinct = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(distinct, pool.map(_prediction, distinct), strict=True))


def _prediction(uri: str) -> Prediction | None:
    try:
        return prediction.of_checkpoint(uri)
    except UserError:  # told where files are checked, or by the items
        return None
