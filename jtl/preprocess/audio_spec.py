"""The preprocessing of sounds, which comes with the weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jtl.weights.formats.errors import show

RATES = (1000, 768000)
"""The lowest and the highest sampling rate of a sound, in hertz."""


EXTRACTORS = ("Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor")
"""Those of transformers that are read."""


class Waves(NamedTuple):
    """A network that takes the sound as it is: `jtl.preprocess.audio.inputs(preprocessing, sounds)` makes its input.

    Args:
      rate: samples a second.
      normalise: each sound to mean 0 and variance 1.
      masked: whether the network was trained to leave padding out; else padding is silence to it.
    """

    rate: int = 16000
    normalise: bool = True
    masked: bool = False


class LogMel(NamedTuple):
    """A network that takes log-mel pictures: `jtl.preprocess.audio.inputs(preprocessing, sounds)` makes its input.

    Args:
      rate: samples a second.
      mels: bands of frequency.
      window: of the Fourier transform, in samples.
      hop: from one frame to the next, in samples.
      seconds: the length of every sound; shorter ones are followed by silence, longer ones cut.
    """

    rate: int = 16000
    mels: int = 80
    window: int = 400
    hop: int = 160
    seconds: int = 30


def from_transformers(config: Mapping[str, Any]) -> Waves | LogMel:
    """The preprocessing of a `preprocessor_config.json`; without a name of `EXTRACTORS`, one with frames is Whisper's.

    Raises:
      ValueError: for an entry that is none of the usual.
    """
    kind = config.get("feature_extractor_type")
    if kind is not None and kind not in EXTRACTORS:
        raise ValueError(f"feature_extractor_type={show(kind)}: known are {', '.join(EXTRACTORS)}")
    config = {"sampling_rate": 16000, **config}
    _whole(config, "sampling_rate", *RATES)
    for name, usual in (("padding_side", "right"), ("padding_value", 0.0), ("dither", 0.0)):
        if config.get(name, usual) != usual:
            raise ValueError(f"{name}={show(config[name])}: only {usual!r} is known")
    if kind == EXTRACTORS[0] or (kind is None and "hop_length" not in config and "n_fft" not in config):
        for name in ("do_normalize", "return_attention_mask"):
            if type(config.get(name, True)) is not bool:
                raise ValueError(f"{name}={show(config[name])}: give true or false")
        if config.get("feature_size", 1) != 1:
            raise ValueError(f"feature_size={show(config['feature_size'])}: a wave has 1")
        masked = config.get("return_attention_mask", False)
        return Waves(config["sampling_rate"], config.get("do_normalize", True), masked)
    config = {"feature_size": 80, "n_fft": 400, "hop_length": 160, "chunk_length": 30, **config}
    _whole(config, "feature_size", 1, 1 << 10)
    _whole(config, "n_fft", 2, 1 << 15)
    _whole(config, "hop_length", 1, 1 << 15)
    _whole(config, "chunk_length", 1, 3600)
    return LogMel(*(config[n] for n in ("sampling_rate", "feature_size", "n_fft", "hop_length", "chunk_length")))


def to_transformers(preprocessing: Waves | LogMel) -> dict[str, Any]:
    """A `preprocessor_config.json` that transformers reads."""
    common = {"sampling_rate": preprocessing.rate, "padding_side": "right", "padding_value": 0.0}
    if isinstance(preprocessing, Waves):
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            **common,
            "do_normalize": preprocessing.normalise,
            "return_attention_mask": preprocessing.masked,
        }
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": preprocessing.mels,
        **common,
        "n_fft": preprocessing.window,
        "hop_length": preprocessing.hop,
        "chunk_length": preprocessing.seconds,
        "n_samples": preprocessing.seconds * preprocessing.rate,
        "nb_max_frames": preprocessing.seconds * preprocessing.rate // preprocessing.hop,
    }


def _whole(config: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = config.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name}={show(value)}: give a whole number from {least} to {most}")
