"""What a file is that holds whole weights: a motion module, a checkpoint or a part of one, a network, an embedding."""

from contextlib import suppress

from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH, find_base, text_width
from animatediff.weights.layouts.families import Base, FileContents, FileRule, PartialIdentity
from animatediff.weights.layouts.ip_adapter import find_projection

UNUSUAL_INPUTS = {5: "depth", 7: "upscaling", 8: "pix2pix", 9: "inpainting"}
"""What a UNet is for that takes more channels than the latent's that it gives back, by their number."""

_FIRST_LAYER = (
    r"(?:^|\bdiffusion_model\.)input_blocks\.0\.0\.weight$|^conv_in\.weight$"
    r"|^model_ema\.diffusion_modelinput_blocks00weight$"
)
_LAST_LAYER = r"(?:^|\bdiffusion_model\.)out\.2\.weight$|^conv_out\.weight$|^model_ema\.diffusion_modelout2weight$"
_FIRST_MOTION_NORM = r"(?:^|\.)down_blocks\.0\.(?:motion_modules|temporal_attentions)\.0\.(?:\w+\.)?norm\.weight$"
_FIRST_BLOCK_WIDTH = 320  # of SDXL's UNet
_MISSABLE_PARTS = {
    "VAE": r"^(?:first_stage_model|vae)\.",
    "text encoder": r"^(?:cond_stage_model|conditioner|text_encoders|text_encoder)\.",
}
_TEXT_ENCODER_WIDTHS: dict[int, Base] = {768: "sd1", 1024: "sd2", 1280: "sdxl"}
_VECTORS = r"^string_to_param\.|^emb_params$|^clip_[lg]$|^text_encoders_[01]$|^<.+>$"
_NARROWEST_VECTOR = 32
_MOTION_NOTES = {
    "v2": "AnimateDiff-Lightning's files look like v2's: only their names tell the number of steps they are for",
    "animatelcm": "it is for 4 to 8 steps of an LCM sampler, and a guidance of 1 to 2",
}


def describe(rule: FileRule, contents: FileContents) -> PartialIdentity:
    """Tell a file's version, layout and base, as far as its rule leaves them open."""
    match rule.family:
        case "motion_module":
            return _motion_module(contents)
        case "checkpoint":
            return _checkpoint(rule, contents)
        case "vae":
            return _vae(rule, contents)
        case "textual_inversion":
            return _embedding(rule, contents, _VECTORS)
        case "sparse_control":
            layout = "official" if contents.has(r"\.temporal_transformer\.") else "diffusers"
            # The published ones are Stable Diffusion 1.x's; a small base's tells itself by the text that it reads.
            width = text_width(contents)
            base = BASE_OF_TEXT_WIDTH.get(width) if width else "sd1"
            return PartialIdentity(rule.family, rule.version, layout, base, text_width=width)
        case "ip_adapter":
            return _ip_adapter(contents)
        case "controlnet":
            note = (
                "with a checkpoint around it, which is not read" if contents.has(r"^model\.diffusion_model\.") else None
            )
            return PartialIdentity(rule.family, rule.version, rule.layout, find_base(contents), note=note)
        case "upscaler" | "image_encoder":
            return PartialIdentity(rule.family, rule.version, rule.layout)
        case _:
            return PartialIdentity(rule.family, rule.version, rule.layout, find_base(contents))


def describe_unnamed(contents: FileContents) -> PartialIdentity:
    """Name a file that no rule knows: diffusers' embeddings are one tensor named after any word.

    All else is unknown.
    """
    name, shape = next(iter(contents.shapes.items()), ("", ()))
    is_known_width = shape[-1:] in {(width,) for width in _TEXT_ENCODER_WIDTHS}
    # Parameters have dots. So may words, if nothing else about them is a parameter's.
    is_word = "." not in name.strip(".") or (is_known_width and not name.endswith((".weight", ".bias")))
    if len(contents.shapes) == 1 and len(shape) in (1, 2) and shape[-1] >= _NARROWEST_VECTOR and is_word:
        return _embedding(FileRule("textual_inversion", (), "diffusers"), contents, "")
    return PartialIdentity("unknown")


def _motion_module(contents: FileContents) -> PartialIdentity:
    # It imports diffusers: seconds that the other families do without.
    from animatediff.weights.layouts.motion import detect, is_table, reads_picture, unsupported
    from animatediff.weights.layouts.own_metadata import CONFIG_KEY, own_few_step

    try:
        found = detect(contents.tensors, contents.metadata)
    except ValueError:  # numbers in names that no module has
        found = None
    if found is None:
        return PartialIdentity("motion_module", note="its layout is not known")
    base = _base_of_motion(contents, is_xl=found.version in ("sdxl", "hotshotxl"))
    notes = [found.note, unsupported(contents.tensors)]
    version: str = found.version
    if contents.has(r"^img_encoder\."):
        version = "animatelcm-i2v"
    elif reads_picture(contents.tensors):
        version = "pia"
        notes.append(None if notes[1] else "it animates a picture: entries give it one as pia")
    elif base is not None and not notes[1]:
        notes.append(_MOTION_NOTES.get(version))
        if version == "animatelcm" and CONFIG_KEY not in contents.metadata and not any(map(is_table, contents.shapes)):
            notes.append("v2 without its position tables looks the same")
    with suppress(ValueError):  # as it is refused with when it is opened
        if few_step := own_few_step(contents.metadata):
            notes.append(f"it is for few steps: {few_step}")
    return PartialIdentity("motion_module", version, found.layout, base, note="; ".join(filter(None, notes)) or None)


def _base_of_motion(contents: FileContents, *, is_xl: bool) -> Base | None:
    """Return a motion module's base.

    It is told from the width of the text that it reads, if it reads any; else from its blocks, which are as wide as
    those of the UNet around them.
    """
    if width := text_width(contents):
        return BASE_OF_TEXT_WIDTH.get(width)
    # Of the published models SDXL alone has three blocks down; a small one may have as many, of other widths.
    is_small = _shape(contents, _FIRST_MOTION_NORM)[:1] != (_FIRST_BLOCK_WIDTH,)
    return (None if is_small else "sdxl") if is_xl else "sd1"


def _shape(contents: FileContents, pattern: str) -> tuple[int, ...]:
    return next((contents.shapes[name] for name in contents.matching(pattern)), ())


def _checkpoint(rule: FileRule, contents: FileContents) -> PartialIdentity:
    first, last = (_shape(contents, layer) for layer in (_FIRST_LAYER, _LAST_LAYER))
    is_text_to_image = first[1:2] == last[:1]  # a latent of that many channels goes in and comes out
    version = UNUSUAL_INPUTS.get(first[1]) if len(first) == 4 and not is_text_to_image else None
    missing = (part for part, pattern in _MISSABLE_PARTS.items() if not contents.has(pattern))
    notes = [f"the {rule.version} alone"] if rule.version else [f"no {part}: the base's is used" for part in missing]
    if contents.has(r"^model_ema\."):
        has_other = contents.has(r"^model\.diffusion_model\.")
        notes.append("with an averaged (EMA) UNet" if has_other else "its UNet is the averaged (EMA) one")
    if contents.has(r"^v_pred$") or contents.metadata.get("modelspec.prediction_type") == "v":
        notes.append("trained to predict v, not noise")
    base = _base_of_text_encoder(contents) if rule.version == "text encoder" else find_base(contents)
    return PartialIdentity("checkpoint", version, rule.layout, base, note="; ".join(notes) or None)


def _base_of_text_encoder(contents: FileContents) -> Base | None:
    """Return a text encoder's base; SD 1.x has the first of SDXL's two, so that a width of 768 does not tell."""
    widths = {contents.shapes[name][-1:] for name in contents.matching(r"\btoken_embedding\.weight$")} - {(768,)}
    return _TEXT_ENCODER_WIDTHS.get(widths.pop()[0]) if len(widths) == 1 and () not in widths else None


def _vae(rule: FileRule, contents: FileContents) -> PartialIdentity:
    """Describe a VAE; SD 1.x and SDXL have the same one but for its numbers, so that its base is not told."""
    shapes = (contents.shapes[name] for name in contents.matching(r"(?:^|\.)decoder\.conv_in\.weight$"))
    latent_channels = next((shape[1] for shape in shapes if len(shape) == 4), 4)
    if latent_channels == 4:
        return PartialIdentity("vae", None, rule.layout)
    return PartialIdentity("vae", None, rule.layout, "other", note=f"its latents have {latent_channels} channels")


def _ip_adapter(contents: FileContents) -> PartialIdentity:
    found, base = find_projection(contents.shapes), find_base(contents)
    if found is None:
        return PartialIdentity("ip_adapter", None, None, base, note="its image_proj is missing, or of no known kind")
    tokens = f"{found.num_tokens} tokens of a picture" if found.num_tokens else "a token of each state"
    if found.is_of_face:
        reads = "a face recognition model's vectors: not read here"
    else:
        reads = f"CLIP {'states' if found.reads_states else 'embeddings'} of {found.clip_width} numbers"
    return PartialIdentity("ip_adapter", found.variant, "official", base, note=f"makes {tokens}; it reads {reads}")


def _embedding(rule: FileRule, contents: FileContents, pattern: str) -> PartialIdentity:
    shapes = [contents.shapes[name] for name in contents.matching(pattern)]
    number = shapes[0][0] if len(shapes[0]) == 2 else 1
    is_sdxl = contents.has(r"^(?:clip_[lg]|text_encoders_[01])$") or any(shape[-1:] == (1280,) for shape in shapes)
    base = "sdxl" if is_sdxl else _TEXT_ENCODER_WIDTHS.get(shapes[0][-1] if shapes[0] else 0)
    widths = {shape[-1] for shape in shapes if shape}
    return PartialIdentity(
        *("textual_inversion", f"{number} vector{'' if number == 1 else 's'}", rule.layout, base),
        text_width=widths.pop() if len(widths) == 1 else None,
    )
