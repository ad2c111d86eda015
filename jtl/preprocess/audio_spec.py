"""The preprocessing of sounds, as specified with the weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jtl.weights.formats.errors import show

RATES = (1000, 768000)
"""The lowest and the highest sampling rate of a sound, in hertz."""


EXTRACTORS = ("Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor")
"""The feature extractors of transformers that are read."""


class Waves(NamedTuple):
    """The preprocessing for a network of raw waves; `jtl.preprocess.audio.inputs` applies it.

    Args:
      rate: samples per second.
      normalise: whether each sound is normalised to mean 0 and variance 1.
      masked: whether the network was trained to ignore padding; else it treats padding as silence.
    """

    rate: int = 16000
    normalise: bool = True
    masked: bool = False


class LogMel(NamedTuple):
    """The preprocessing for a network of log-mel spectrograms; `jtl.preprocess.audio.inputs` applies it.

    Args:
      rate: samples per second.
      mels: the number of frequency bands.
      window: the window of the Fourier transform, in samples.
      hop: the distance between frames, in samples.
      seconds: the length of every sound; shorter sounds are padded with silence, longer ones cut.
    """

    rate: int = 16000
    mels: int = 80
    window: int = 400
    hop: int = 160
    seconds: int = 30


def from_transformers(config: Mapping[str, Any]) -> Waves | LogMel:
    """Reads the preprocessing of a `preprocessor_config.json`; one with frames is Whisper's if it names no extractor.

    Raises:
      ValueError: for an unknown or invalid entry.
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
    """Returns a `preprocessor_config.json` for transformers."""
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
