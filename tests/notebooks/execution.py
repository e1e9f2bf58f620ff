"""Notebooks executed as a reader does, from the first cell to the last, and what they show."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_TIMEOUT_S = 300  # of a cell; the longest takes half a minute on two idle cores
_IN_HTML = re.compile(r'src="data:image/webp;base64,([^"]+)"')


class Executed:
    """An executed notebook.

    Args:
        notebook: with its outputs.
        folder: that it ran in.
    """

    def __init__(self, notebook: nbformat.NotebookNode, folder: Path) -> None:
        self.folder = folder
        self._outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        self._data = [output.data for output in self._outputs if "data" in output]

    @property
    def printed(self) -> str:
        """All that was printed, and the text of each cell's value."""
        streams = (output.text for output in self._outputs if output.output_type == "stream")
        return "\n".join([*streams, *(data.get("text/plain", "") for data in self._data)])

    @property
    def pictures(self) -> list[np.ndarray]:
        """Pictures that stand still: contact sheets, histograms, plots; (h w 3) uint8 each."""
        return [frames(data["image/png"])[0] for data in self._data if "image/png" in data]

    @property
    def clips(self) -> list[np.ndarray]:
        """Pictures that move, (f h w 3) uint8 each."""
        return [frames(found[1]) for data in self._data if (found := _IN_HTML.search(data.get("text/html", "")))]


def execute(name: str, folder: Path) -> Executed:
    """Run a notebook in a folder.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=_TIMEOUT_S, startup_timeout=_TIMEOUT_S, resources=resources).execute()
    return Executed(notebook, folder)


def frames(encoded: str) -> np.ndarray:
    """The frames of a picture in base64, (f h w 3) uint8."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        found = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            found.append(np.asarray(image.convert("RGB")))
    return np.stack(found)


def is_drawn(picture: np.ndarray) -> bool:
    """Whether a picture (h w 3) has things of several colours on it."""
    return len(np.unique(picture.reshape(-1, 3) // 32, axis=0)) >= 4


def moves(clip: np.ndarray) -> bool:
    """Whether most frames of (f h w 3) differ visibly from the one before; where a motion turns, one may not."""
    change = np.abs(np.diff(clip.astype(int), axis=0)).max(axis=(1, 2, 3))
    return len(clip) > 1 and bool(np.median(change) > 64)
