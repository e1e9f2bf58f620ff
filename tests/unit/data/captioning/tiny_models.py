"""Random models of a few thousand parameters in the layouts of transformers, with word tokenizers."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

WORDS = [f"word{i}" for i in range(40)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<vision>", "</vision>", "<image>", "<video>"]
CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<vision><image></vision>{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}word1 {% endif %}"
)


def tokenizer(**fields):
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=SPECIAL[4:], **names | fields)


def blip(folder, seed=0):
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "encoder_hidden_size": 32,
        "initializer_range": 1.0,
        "max_position_embeddings": 96,
    }
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    config = BlipConfig(
        text_config=size | text | tokens,
        vision_config=size | {"image_size": 32, "initializer_range": 1.0, "patch_size": 16},
        projection_dim=16,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(pictures, tokenizer(sep_token="</s>")).save_pretrained(folder)


def qwen(folder, seed=0):
    """Of the family that is used most, and whose processor has a part for videos, which needs torchvision."""
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 32}
    rope = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "rope_scaling": rope}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14, "fullatt_block_indexes": [0]}
    config = Qwen2_5_VLConfig(
        text_config=size | heads | tokens | {"vocab_size": len(SPECIAL) + len(WORDS)},
        vision_config=size | vision,
        vision_start_token_id=4,
        vision_end_token_id=5,
        image_token_id=6,
        video_token_id=7,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer(
        chat_template=CHAT, extra_special_tokens={"image_token": "<image>", "video_token": "<video>"}
    ).save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)


def noise(n, h=40, w=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)
