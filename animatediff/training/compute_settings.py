"""How a worker computes a training step: precision, memory, compilation."""

from pydantic import Field

from animatediff.config import Config
from animatediff.models.config import ActivationCheckpointing, Precision


class ComputeConfig(Config):
    """How a worker computes a step. It changes no more than the rounding, and may change while a run is continued."""

    precision: Precision = "auto"
    """Of the frozen weights and the matrix products; what is trained stays in float32. auto: bfloat16 where all
    workers' GPUs or processors (with avx512_bf16 or amx_bf16) multiply it, else float16 with a loss scaler on GPUs,
    float32 on CPUs; the recipe distill, which learns too little in bfloat16, never takes that by itself."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most clips that a worker computes at once; the gradients of its share of a batch are accumulated over as many
    passes as that takes. Default: the whole share at once."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """What is computed again for the gradients instead of being kept in memory: nothing, the motion modules, or every
    unit of ResNet, attention and motion module. A clip of 16 x 1024 x 1024 keeps 108, 77 and 12 GB on SDXL (28, 19 and
    3 GB of 16 x 512 x 512), counted."""
    offload_text_encoders: bool = False
    """Leave the text encoders in the machine's memory, and have them on the GPU only while captions are encoded, before
    there is anything else of a step: SDXL's two take 1.6 GB there in half precision. The way there is once for every
    step with a new caption, of which the last 1,024 are kept."""
    compile: bool = False
    """Compile the model with `torch.compile`, which takes minutes at the start."""
