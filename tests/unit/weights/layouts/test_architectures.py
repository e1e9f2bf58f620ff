"""The known architectures: their sizes are those of the published models, and they take no memory."""

from animatediff.weights.layouts.architectures import PARTS, meta_modules


def test_the_known_architectures_have_the_published_sizes():
    counts = {
        "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sdxl": {
            "unet": 2_567_463_684,
            "vae": 83_653_863,
            "text_encoder": 123_060_480,
            "text_encoder_2": 694_659_840,
        },
    }
    for base, expected in counts.items():
        modules = meta_modules(base)
        assert {part: sum(p.numel() for p in module.parameters()) for part, module in modules.items()} == expected
        assert all(isinstance(module, PARTS[part]) for part, module in modules.items())
        assert all(p.is_meta for module in modules.values() for p in module.parameters())
