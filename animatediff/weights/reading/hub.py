"""What went wrong with the hub, which diffusers and transformers tell as a config file that is missing."""

from collections.abc import Iterator

from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from animatediff.errors import one_line

_TAKEN_FOR_HUB = "there is no such folder, so it is taken for a hub id"


def reason(error: BaseException) -> str:
    """Why a part could not be loaded, as the end of one line: of the hub's errors, what went wrong with the hub.

    diffusers and transformers tell every trouble with the hub as a config file that is missing; what they were told by
    its client is in the chain of the errors.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{_TAKEN_FOR_HUB}: accept its licence on the hub and set HF_TOKEN"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"{_TAKEN_FOR_HUB}, and the hub has none for this user: mend the name or path, or set HF_TOKEN"
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes):
        offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub could not be reached"
        return (
            f"{_TAKEN_FOR_HUB}, but {offline} and the cache {HF_HUB_CACHE} has no copy: name a local folder, or point "
            "HF_HOME at a cache that was filled where there is a network"
        )
    return one_line(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
