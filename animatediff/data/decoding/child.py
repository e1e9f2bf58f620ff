"""The process that decodes: `python -m animatediff.data.decoding.child FD`, as `DecodeSupervisor` starts it."""

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.cut import DecodedClip, cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.supervision.serving import OnBusy, Work, run_child


def _prepare(decode: DecodeConfig, clips: ClipConfig) -> Work:
    decoders = load_decoders(decode.decoders)

    def cut(on_busy: OnBusy, video_id: str, data: bytes, crop: CropBox | None) -> list[DecodedClip]:
        def on_decode(name: str, info: VideoInfo) -> None:
            on_busy(name, info.decoding_s)

        return cut_clips(video_id, data, clips, decoders, crop=crop, max_pixels=decode.max_pixels, on_decode=on_decode)

    return cut


if __name__ == "__main__":
    run_child(_prepare)
