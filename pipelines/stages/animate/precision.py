"""What `precision: auto` means for the clips of a folder: found out once, from the cluster that its first run is on.

The precision is a part of the items' digests. Were it found out by each run, a second one on other machines would
render everything again; so the first one writes down what it found, and all others keep to it.
"""

import logging

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from animatediff import storage
from animatediff.models.computing import processor
from animatediff.models.config import Precision
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.storage import checked_json
from pipelines.cluster.runtime import connect, wants_gpus
from pipelines.settings import AnimateConfig

logger = logging.getLogger(__name__)

# A node that starts a process for the first time takes seconds; one that does not answer counts as one that cannot.
_ANSWER_S = 60.0


def auto_precision(config: AnimateConfig, catalog: Catalog, output_uri: str) -> Precision | None:
    """Return the precision that `auto` stands for; None is the workers' device's own, as where a catalog names none.

    Args:
        config: the job's. A dry run goes by this machine's processor where nothing is written down yet.
        catalog: whose entries may say `auto`.
        output_uri: the folder of the clips, which keeps what is found out.

    Raises:
        UserError: the cluster cannot be joined, or what is written down is damaged.
    """
    if all(catalog.computing_of(entry)["precision"] != "auto" for entry in catalog.entries):
        return None
    uri = storage.join(output_uri, "inputs", "precision.json")
    try:
        content = checked_json.load(storage.read_bytes(uri), uri, remedy="delete it, and `auto` is found out anew")
        found: Precision | None = content.get("auto")
    except FileNotFoundError:
        if config.dry_run:
            found = "bfloat16" if not config.use_gpu and processor.multiplies_bfloat16() else None
        else:
            connect()
            found = None if wants_gpus(config.use_gpu) or nodes_without_bfloat16() else "bfloat16"
            storage.write_bytes(uri, checked_json.dump({"auto": found}))
    logger.info("precision auto: %s", found or "the workers' own, float32 on CPUs and float16 on GPUs")
    return found


def warn_of_slow_nodes(precisions: set[Precision | None]) -> None:
    """Tell where models are to be rendered in a half precision that CPUs emulate, and which precision suits them."""
    if precisions <= {None, "float32"}:
        return
    slow = nodes_without_bfloat16()
    # On an EPYC with avx512_bf16, one thread, float16 takes 81 times float32's time for a convolution and 4.8 times for
    # a linear layer. oneDNN knows avx512_fp16 and amx_fp16, but those have not been measured; they have bfloat16, too.
    if "float16" in precisions:
        logger.warning(
            "models are rendered in float16, which PyTorch emulates on CPUs, many times slower than float32: on all "
            "nodes; precision: %s suits them, and makes other clips",
            "float32" if slow else "bfloat16",
        )
    if "bfloat16" in precisions and slow:
        logger.warning(
            "models are rendered in bfloat16 on processors that do not multiply it, which is slow: on %s; "
            "precision: float32 suits them, and makes other clips",
            ", ".join(slow),
        )


def nodes_without_bfloat16() -> list[str]:
    """Return the addresses of the nodes with CPUs whose processors do not multiply bfloat16."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    ask = ray.remote(num_cpus=0)(processor.multiplies_bfloat16)
    answers = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)  # a node may be lost meanwhile
        answers[ask.options(scheduling_strategy=there).remote()] = node["NodeManagerAddress"]
    ready, silent = ray.wait(list(answers), num_returns=len(answers), timeout=_ANSWER_S)
    return sorted(answers[answer] for answer in (*silent, *(one for one in ready if not ray.get(one))))
